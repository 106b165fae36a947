"""One small module a tool: pure functions from a section's text to values. None of them raises on any text."""
