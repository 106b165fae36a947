"""Past runs: which there are, which of them still go on, and what is done with their folders (docs/reference/logs.md)."""
