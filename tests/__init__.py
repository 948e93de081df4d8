"""The tests; ``python -m tests`` runs them behind the static checks."""
