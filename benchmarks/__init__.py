"""What the engine costs, measured beside what one would write without it: ``python -m benchmarks``."""
