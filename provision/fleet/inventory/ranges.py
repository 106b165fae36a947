"""Ranges of host names, `gpu-[1:64]` or `gpu-[a:f]`, as Ansible expands them."""

from __future__ import annotations

import re

MOST_HOSTS = 100_000
"""Hosts that one line may name: Ansible keeps each in memory."""
_DIGITS = 18
"""No number of a host is longer."""
_BEYOND = 10**18
"""What is counted where a number is longer."""
_RANGE = re.compile(r"\[(\d+):(\d+)(?::(\d+))?\]")


def hosts_of_ranges(text: str) -> int:
    """How many names the ranges in one line make, each times the others."""
    found = 1
    for first, last, step in (match.groups() for match in _RANGE.finditer(text)):
        if len(first) > _DIGITS or len(last) > _DIGITS:
            return _BEYOND
        found *= max(1, (int(last) - int(first)) // max(1, int((step or "1")[:_DIGITS])) + 1)
    return found
