"""Shared basics of all packages: records, errors, redaction, paths, run folder, formatting."""
