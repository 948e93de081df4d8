"""The commands that need no broker: replay, margin, synth, demo."""
