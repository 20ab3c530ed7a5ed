"""What is said: every message, its fields, its subject and its delivery class. Imports nothing else of Shoal."""
