"""Past runs: their list, their status, and what is done with their folders (docs/reference/logs.md)."""
