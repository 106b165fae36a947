"""Secrets never reach a file, a terminal or an archive: every writer passes what it writes through here.

Two ways lead to a mask: what looks like a secret, by its name or its form, and what is known to be one, because this
process read it (`remember`). Known ones are kept in memory only.
"""

from __future__ import annotations

import re
from functools import lru_cache
from threading import Lock
from typing import Any

from verify.secret_masking import MASK, masked

__all__ = ["MASK", "redact", "register_secret", "scrub"]

SHORTEST_KNOWN = 6
"""A known secret of fewer characters is not looked for: it would be found in ordinary words, and these masked."""
OFTEN = 120
"""Characters of a text that is likely to come again (a word of ours, a host's name): its answer is kept."""

_SECRET_KEY = re.compile(
    r"(?i)(api[_-]?key|secret|passw(or)?d|passphrase|credentials?|(private|account|access|signing|master)[_-]?key|(^|[_-])(token|pass|pwd|auth|cookie))$"
)

_PATH = re.compile(r"/\S*")
_known: set[str] = set()
_known_pattern: re.Pattern[str] | None = None
_lock = Lock()


def register_secret(secret: str) -> str:
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
    return masked(_mask_known(text))


_redact_again = lru_cache(maxsize=8192)(_redact)


def scrub(value: Any) -> Any:
    """The same for every string in a JSON value, names of keys and options taken into account."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {_masked_key(key): MASK if _names_secret(key, inner) else scrub(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        before = ("", *value)
        return [MASK if _is_option(name, item) else scrub(item) for name, item in zip(before, value, strict=False)]
    return value


def _masked_key(key: Any) -> Any:
    return redact(key) if isinstance(key, str) else key


def _names_secret(key: object, value: Any) -> bool:
    """Whether a key alone says that what stands below it is a secret: a flag, nothing, or the path of a file is none."""
    if not isinstance(key, str) or value is None or isinstance(value, bool) or value in ("", [], {}, ()):
        return False
    if isinstance(value, (int, float)) and key.lower().endswith("token"):
        return False  # a time or a count: `first_token`
    return not (isinstance(value, str) and _PATH.fullmatch(value)) and _is_secret_name(key)


@lru_cache(maxsize=4096)
def _is_secret_name(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def _is_option(name: Any, value: Any) -> bool:
    """Whether an argument is the secret that the option before it asks for."""
    if not isinstance(name, str) or not name.startswith("--") or not isinstance(value, str) or value.startswith("-"):
        return False
    return _names_secret(name, value)
