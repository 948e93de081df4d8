"""Whole adversarial markets from a seed, run through the core with every promise checked after every message."""
