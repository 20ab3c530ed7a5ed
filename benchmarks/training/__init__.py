"""Shoal and others on the same training job over the same bad links: `python -m benchmarks.training --help`."""
