"""Measurements of Shoal, and of Shoal beside others; docs/performance.md has their commands and figures."""
