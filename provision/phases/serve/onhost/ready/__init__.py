"""Proof that a service answers correctly, packed into ready.pyz, which the environment's Python runs on the host."""
