"""`shoal demo`: five unequal nodes behind emulated links, faults on schedule, one real training job."""
