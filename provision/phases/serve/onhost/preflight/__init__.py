"""The checks before each start of the server: packed into preflight.pyz, run by the environment's Python. Standard library only."""
