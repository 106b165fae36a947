"""Secrets never reach a summary, whatever file they came from: what looks like one is replaced before anything is rendered."""

from __future__ import annotations

import re
from typing import Any

MASK = "[hidden]"

_PATTERNS = (
    # NAME=value and "name": "value", for names that hold secrets
    re.compile(
        r"""(?ix)(["']?\b[\w.-]*(?:api[_-]?key|apikey|secret|passw(?:or)?d|passphrase|(?<!max_)(?<!new_)token|credential)
        ["']?\s*[=:]\s*["']?)(?!/|\$|\[hidden\])([^\s"',;&)}\]]{4,})"""
    ),
    re.compile(r"(?i)(\b(?:bearer|basic)\s+)(?!\$|\[hidden\])([A-Za-z0-9+/_.=~-]{8,})"),
    re.compile(r"(://[^\s/:@]*:)([^\s/@]+)(?=@)"),
    # tokens that name themselves by their prefix: of model hubs, code hosts, clouds
    re.compile(r"()\b((?:hf|sk|ghp|gho|ghs|github_pat|glpat|xox[abprs]|nvapi)[_-][A-Za-z0-9_-]{12,}|AKIA[0-9A-Z]{16})"),
    re.compile(r"()(-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$))", re.DOTALL),
)


def redact(text: str) -> str:
    """The text with everything that looks like a secret masked."""
    for pattern in _PATTERNS:
        text = pattern.sub(lambda found: found[1] + MASK, text)
    return text


def scrub(value: Any) -> Any:
    """The same for every string in a JSON value."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: MASK if _names_secret(key, inner) else scrub(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub(inner) for inner in value]
    return value


def _names_secret(key: object, value: Any) -> bool:
    """Whether a key alone says that its string is a secret (a path or a flag beside it is none)."""
    if not isinstance(key, str) or not isinstance(value, str) or not value or value.startswith("/"):
        return False
    return re.search(r"(?i)(api[_-]?key|secret|passw(or)?d|passphrase|(^|_)token)$", key) is not None
