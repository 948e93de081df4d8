"""Compiled loops over arrays: arithmetic, margin of one position, repricing of all holders of a symbol."""
