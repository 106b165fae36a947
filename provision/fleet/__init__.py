"""The hosts of a run: the inventory, sessions with them, locks, and trials that need several of them at once."""
