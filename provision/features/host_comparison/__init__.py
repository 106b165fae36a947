"""Comparison of hosts that should be equal: which of them are odd, and in what."""
