"""Redaction of secrets in everything that is written to files, terminals and archives.

A secret is masked when its name or form shows it, or when this process has read it (`register_secret`). Registered
secrets stay in memory only.
"""

import re
from threading import Lock
from typing import Any

from verify.secret_masking import MASK, masked

__all__ = ["MASK", "redact", "register_secret", "scrub"]

SHORTEST_KNOWN = 6
"""Shorter registered secrets are not masked, because they would match ordinary words."""

_SECRET_KEY = re.compile(
    r"(?i)(api[_-]?key|secret|passw(or)?d|passphrase|credentials?|(private|account|access|signing|master)[_-]?key|(^|[_-])(token|pass|pwd|auth|cookie))$"
)

_BY_NAMES = ("models", "missing", "out", "changes")
"""Keys of records whose values have names of models and hosts as keys: such a name is none of a secret, whatever its end."""
_PATH = re.compile(r"/\S*")
_known: set[str] = set()
_known_pattern: re.Pattern[str] | None = None
_lock = Lock()


def register_secret(secret: str) -> str:
    """Register a secret that this process has read, so that it is masked everywhere, and return it."""
    global _known_pattern  # noqa: PLW0603 - what is secret is so for every writer of the process
    if len(secret) >= SHORTEST_KNOWN and secret not in _known:
        with _lock:
            _known.add(secret)
            _known_pattern = None
    return secret


def _compiled() -> re.Pattern[str]:
    """Return the pattern of all registered secrets, compiled on first use."""
    global _known_pattern  # noqa: PLW0603 - what is secret is so for every writer of the process
    with _lock:
        pattern = re.compile("|".join(map(re.escape, sorted(_known, key=len, reverse=True))))
        _known_pattern = pattern
    return pattern


def redact(text: str) -> str:
    """Return the text with all registered and recognised secrets masked."""
    return masked((_known_pattern or _compiled()).sub(MASK, text) if _known else text)


def scrub(value: Any, *, by_names: bool = False) -> Any:
    """Return a copy of a JSON value with secrets masked in every string; options and keys, but not `by_names` of hosts, count as names of secrets."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {
            scrub(key): MASK if not by_names and _is_secret(key, inner) else scrub(inner, by_names=key in _BY_NAMES)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        before = ["", *value]
        return [MASK if _is_option(name, item) else scrub(item) for name, item in zip(before, value, strict=False)]
    return value


def _is_secret(key: Any, value: Any) -> bool:
    """Return whether a key names a secret and its value is one; booleans, empty values and file paths are none."""
    if not isinstance(key, str) or not _SECRET_KEY.search(key):
        return False
    if value is None or isinstance(value, bool) or value in ("", [], {}, ()):
        return False
    if isinstance(value, (int, float)) and key.lower().endswith("token"):
        return False  # a time or a count, such as `first_token`
    return not (isinstance(value, str) and _PATH.fullmatch(value))


def _is_option(name: Any, value: Any) -> bool:
    """Return whether an argument is the secret value of the option before it."""
    if not isinstance(name, str) or not name.startswith("--") or not isinstance(value, str) or value.startswith("-"):
        return False
    return _is_secret(name, value)
