"""A workload that can't be imported."""

raise RuntimeError("this module is broken on purpose")
