"""Values of metrics in Prometheus' text format. Pure."""

import re
from collections.abc import Iterable

WORKING = ("vllm:num_requests_running", "vllm:num_requests_waiting")
"""Requests that an engine has."""
TOKENS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
"""Tokens that an engine has processed."""
_SAMPLE = re.compile(r'^([a-zA-Z_:][\w:]*)(?:\{((?:[^"}\n]|"(?:[^"\\\n]|\\.)*")*)\})? (\S+)$', re.MULTILINE)


def samples(text: str) -> list[tuple[str, str, float]]:
    """Return name, labels as they are written, and value of each sample."""
    return [(name, labels, float(value)) for name, labels, value in _SAMPLE.findall(text)]


def totals(text: str, names: Iterable[str]) -> dict[str, float]:
    """Return the sums of metrics over all labels; those that are missing are 0."""
    found = dict.fromkeys(names, 0.0)
    for name, _, value in samples(text):
        if name in found:
            found[name] += value
    return found


def is_at_work(text: str) -> bool:
    """Return whether an engine has requests."""
    return any(totals(text, WORKING).values())
