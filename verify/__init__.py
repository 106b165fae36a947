"""Checks that a host computes correctly. Requires Python 3.10 and, for most checks, torch."""

VERSION = "0.1.0"
