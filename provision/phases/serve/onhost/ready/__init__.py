"""The proof that a service answers right: made into one file, ready.pyz, that the environment's Python runs on the host."""
