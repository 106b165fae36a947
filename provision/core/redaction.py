"""Redaction of secrets in everything that is written to files, terminals and archives.

A secret is masked when its name or form shows it, or when this process has read it (`register_secret`). Registered
secrets stay in memory only.
"""

from __future__ import annotations

import re
from functools import lru_cache
from threading import Lock
from typing import Any

from verify.secret_masking import MASK, masked

__all__ = ["MASK", "is_clean", "redact", "register_secret", "scrub"]

SHORTEST_KNOWN = 6
"""Shorter registered secrets are not masked, because they would match ordinary words."""
OFTEN = 120
"""Maximum length of texts whose redaction is cached: short texts often repeat."""

_SECRET_KEY = re.compile(
    r"(?i)(api[_-]?key|secret|passw(or)?d|passphrase|credentials?|(private|account|access|signing|master)[_-]?key|(^|[_-])(token|pass|pwd|auth|cookie))$"
)

_PATH = re.compile(r"/\S*")
_known: set[str] = set()
_clean_texts: set[str] = set()
"""Short texts that were seen to hold no secret."""
_plain_keys: set[Any] = set()
"""Keys that were seen to name none."""
MOST_KNOWN, LONGEST_KNOWN = 8192, 1000
"""Maximum number of texts in each, and their maximum length."""
_known_pattern: re.Pattern[str] | None = None
_lock = Lock()


def register_secret(secret: str) -> str:
    """Register a secret that this process has read, so that it is masked everywhere.

    Returns:
        The secret.
    """
    global _known_pattern  # noqa: PLW0603 - what is secret is so for every writer of the process
    if len(secret) >= SHORTEST_KNOWN and secret not in _known:
        with _lock:
            _known.add(secret)
            _known_pattern = None
            _redact_again.cache_clear()
            _named.cache_clear()
            _clean_texts.clear()
            _plain_keys.clear()
    return secret


def _mask_known(text: str) -> str:
    """Mask registered secrets."""
    return (_known_pattern or _compiled()).sub(MASK, text) if _known else text


def _compiled() -> re.Pattern[str]:
    """Return the pattern of all registered secrets, compiled on first use."""
    global _known_pattern  # noqa: PLW0603 - what is secret is so for every writer of the process
    with _lock:
        pattern = re.compile("|".join(map(re.escape, sorted(_known, key=len, reverse=True))))
        _known_pattern = pattern
    return pattern


def redact(text: str) -> str:
    """Return the text with all registered and recognised secrets masked."""
    return _redact_again(text) if len(text) <= OFTEN else _redact(text)


def _redact(text: str) -> str:
    return masked(_mask_known(text))


_redact_again = lru_cache(maxsize=8192)(_redact)


def scrub(value: Any) -> Any:
    """Mask secrets in every string of a JSON value; keys and options count as names of secrets.

    Returns:
        The value itself where it holds no secret, otherwise a copy.
    """
    return value if is_clean(value) else _scrub(value)


def is_clean(value: Any) -> bool:
    """Return whether a JSON value surely holds no secret. Texts and keys that repeat are searched once, and nothing is copied."""
    waiting = [value]
    for one in waiting:
        kind = type(one)
        if kind is str:
            if one not in _clean_texts and not _is_clean_text(one):
                return False
        elif kind is dict:
            if not _plain_keys.issuperset(one) and not all(_is_plain(key, inner) for key, inner in one.items()):
                return False
            waiting.extend(one.values())
        elif kind is list or kind is tuple:
            waiting.extend(one)
        elif not (one is None or kind is int or kind is float or kind is bool):
            return False
    return True


def _is_clean_text(text: str) -> bool:
    """Return whether a text holds no secret, and is no option whose value is one."""
    known = len(_known)
    found = redact(text) == text and not (text.startswith("--") and _is_secret_name(text))
    if found:
        _note(text, _clean_texts, known)
    return found


def _is_plain(key: Any, value: Any) -> bool:
    """Return whether a key is shown as it is, and names no secret, or one whose value is none."""
    known = len(_known)
    shown, names_secret = _named(key)
    if shown == key and not names_secret:
        _note(key, _plain_keys, known)
    return shown == key and not (names_secret and _is_secret(key, value))


def _note(text: Any, seen: set[Any], known: int) -> None:
    """Keep what was seen to hold none of `known` secrets, unless another one was registered since, or it is long."""
    if not isinstance(text, str) or len(text) > LONGEST_KNOWN:
        return
    with _lock:
        if len(_known) == known and len(seen) < MOST_KNOWN:
            seen.add(text)


def _scrub(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        cleaned = {}
        for key, inner in value.items():
            shown, names_secret = _named(key)
            if names_secret and _is_secret(key, inner):
                cleaned[shown] = MASK
            else:
                cleaned[shown] = _scrub(inner)
        return cleaned
    if isinstance(value, (list, tuple)):
        items, before = [], ""
        for item in value:
            items.append(MASK if isinstance(item, str) and _is_option(before, item) else _scrub(item))
            before = item
        return items
    return value


@lru_cache(maxsize=4096)
def _named(key: Any) -> tuple[Any, bool]:
    """Return a key as it may be shown, and whether it names a secret."""
    return redact(key) if isinstance(key, str) else key, _is_secret_name(key)


def _is_secret(key: str, value: Any) -> bool:
    """Return whether the value of a key that names a secret is one; booleans, empty values and file paths are none."""
    if value is None or isinstance(value, bool) or value in ("", [], {}, ()):
        return False
    if isinstance(value, (int, float)) and key.lower().endswith("token"):
        return False  # a time or a count, such as `first_token`
    return not (isinstance(value, str) and _PATH.fullmatch(value))


@lru_cache(maxsize=4096)
def _is_secret_name(key: object) -> bool:
    return isinstance(key, str) and _SECRET_KEY.search(key) is not None


def _is_option(name: Any, value: Any) -> bool:
    """Return whether an argument is the secret value of the option before it."""
    if not isinstance(name, str) or not name.startswith("--") or not isinstance(value, str) or value.startswith("-"):
        return False
    return _is_secret_name(name) and _is_secret(name, value)
