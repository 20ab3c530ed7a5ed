"""A job's source as a bundle: packed and signed where it is submitted, checked, kept and unpacked on nodes."""
