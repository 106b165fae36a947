"""Operators and matrix products: problems, references, tolerances and speeds."""
