"""The deterministic core: integers only; no I/O, no clock, no randomness, no logging."""
