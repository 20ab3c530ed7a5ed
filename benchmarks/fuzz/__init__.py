"""Bytes that nobody meant, given to everything that reads bytes which come from elsewhere."""
