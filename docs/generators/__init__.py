"""Generators of documentation: each module returns the text of one file or of one table."""
