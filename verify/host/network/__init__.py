"""Trials between hosts: interfaces, reachability, and an all-reduce."""
