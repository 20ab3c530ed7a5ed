"""Measurements of Shoal, and of Shoal beside others; README.md lists them."""
