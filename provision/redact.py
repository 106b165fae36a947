"""Secrets never reach a file, a terminal or an archive: every writer passes what it writes through here.

Two ways lead to a mask: what looks like a secret, by its name or its form, and what is known to be one, because this
process read it (`remember`). Known ones are kept in memory only.
"""

from __future__ import annotations

import re
from functools import lru_cache
from threading import Lock
from typing import Any

MASK = "[hidden]"
SHORTEST_KNOWN = 6
"""A known secret of fewer characters is not looked for: it would be found in ordinary words, and these masked."""
OFTEN = 120
"""Characters of a text that is likely to come again (a word of ours, a host's name): its answer is kept."""

_NAMES = r"(?:api[_-]?key|apikey|secret|passw(?:or)?d|passphrase|(?<!max_)(?<!new_)token|credential)"
_PATTERNS = (
    # NAME=value and "name": "value", for names that hold secrets; `without a password: do this` is a sentence, and so is
    # `decode one token: largest error`: what follows there is a word of small letters
    re.compile(
        rf"""(?ix)(?<!\ba\ )(?<!\bno\ )({_NAMES}["']?\s*[=:]\s*["']?)(?!(?<=token:\s)(?-i:[a-z]{{1,12}})(?:[\s,;.]|$))(?!/|\$|--|\[hidden\]|(?:true|false|none|null)\b)([^\s"',;&)}}\]]{{4,}})"""
    ),
    # the same as an option with its value after a blank
    re.compile(rf"""(?i)(--[\w-]{{0,40}}{_NAMES}\s+["']?)(?![-/$]|\[hidden\])([^\s"',;&)}}\]]{{4,}})"""),
    re.compile(r"(?i)(\b(?:bearer|basic)\s+)(?!\$|\[hidden\]|(?-i:[a-z]+)\b)([A-Za-z0-9+/_.=~-]{8,})"),
    re.compile(r"(://[^\s/:@]*:)([^\s/@]+)(?=@)"),
    # a token alone in the place of user and password: longer than names of users are
    re.compile(r"(://)([^\s/:@]{24,})(?=@)"),
    # tokens that name themselves by their prefix: of model hubs, code hosts, clouds
    re.compile(r"()\b((?:hf|sk|ghp|gho|ghs|github_pat|glpat|xox[abprs]|nvapi)[_-][A-Za-z0-9_-]{12,}|AKIA[0-9A-Z]{16})"),
    re.compile(r"()(-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$))", re.DOTALL),
)
_TRACES = (
    *("key", "secret", "passw", "passphrase", "token", "credential", "bearer", "basic", "://"),
    *("hf_", "hf-", "sk_", "sk-", "ghp", "gho", "ghs", "github_pat", "glpat", "xox", "nvapi", "akia"),
)
"""Without one of these in it, in small letters, no pattern can match: most texts need no more than this look."""
_SECRET_KEY = re.compile(r"(?i)(api[_-]?key|secret|passw(or)?d|passphrase|(^|[_-])token)$")

_known: set[str] = set()
_known_pattern: re.Pattern[str] | None = None
_lock = Lock()


def remember(secret: str) -> str:
    """Take note of a secret that this process has read: from now on it is masked wherever it shows. Returns it."""
    global _known_pattern  # noqa: PLW0603 - what is secret is so for every writer of the process
    if len(secret) >= SHORTEST_KNOWN and secret not in _known:
        with _lock:
            _known.add(secret)
            _known_pattern = None
            _redact_again.cache_clear()
    return secret


def _mask_known(text: str) -> str:
    """The text without the secrets that were read."""
    return (_known_pattern or _compiled()).sub(MASK, text) if _known else text


def _compiled() -> re.Pattern[str]:
    """The pattern of all known secrets, made when it is first used: a fleet has many, each remembered by itself."""
    global _known_pattern  # noqa: PLW0603 - what is secret is so for every writer of the process
    with _lock:
        pattern = re.compile("|".join(map(re.escape, sorted(_known, key=len, reverse=True))))
        _known_pattern = pattern
    return pattern


def redact(text: str) -> str:
    """The text with every known secret, and everything that looks like one, masked."""
    return _redact_again(text) if len(text) <= OFTEN else _redact(text)


def _redact(text: str) -> str:
    text = _mask_known(text)
    small = text.lower()
    if not any(trace in small for trace in _TRACES):
        return text
    for pattern in _PATTERNS:
        text = pattern.sub(lambda found: found[1] + MASK, text)
    return text


_redact_again = lru_cache(maxsize=8192)(_redact)


def scrub(value: Any) -> Any:
    """The same for every string in a JSON value, names of keys and options taken into account."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {
            _without_known(key): MASK if _names_secret(key, inner) else scrub(inner) for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        before = ("", *value)
        return [MASK if _is_option(name, item) else scrub(item) for name, item in zip(before, value, strict=False)]
    return value


def _without_known(key: Any) -> Any:
    return _mask_known(key) if isinstance(key, str) else key


def _names_secret(key: object, value: Any) -> bool:
    """Whether a key alone says that its string is a secret (a path or a flag beside it is none)."""
    if not isinstance(key, str) or not isinstance(value, str) or not value or value.startswith("/"):
        return False
    return _is_secret_name(key)


@lru_cache(maxsize=4096)
def _is_secret_name(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def _is_option(name: Any, value: Any) -> bool:
    """Whether an argument is the secret that the option before it asks for."""
    if not isinstance(name, str) or not name.startswith("--") or not isinstance(value, str) or value.startswith("-"):
        return False
    return _names_secret(name, value)
