"""What people look at while a fleet works: a state made of events, drawn on a terminal or as lines."""
