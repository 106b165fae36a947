"""The run of checks: which ones, in which order, and what becomes of their results."""
