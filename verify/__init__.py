"""Proof that a host computes, and computes right: needs Python 3.10 and, for most checks, torch. Nothing else."""

VERSION = "0.1.0"
