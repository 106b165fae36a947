"""The command line of the checks."""
