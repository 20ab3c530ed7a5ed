"""Drills: a running fleet's own processes are killed, paused and cut off on purpose, to see that it gets over it."""
