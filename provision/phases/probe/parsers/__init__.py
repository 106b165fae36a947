"""Pure functions from a section's text to values, one module per tool. None of them raises on any text."""
