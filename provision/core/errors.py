"""What can go wrong, as types: one exception a failure class, its values as data, its exit code fixed.

Exit codes are public (docs/reference/exit-codes.md). The text of an error says what is wrong and with
which values; the hint names the next command or the setting to change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from urllib.parse import urlsplit


class Exit(IntEnum):
    """Exit codes of every command but `verify` and `doctor`, which have scales of their own."""

    OK = 0
    RED = 1
    USAGE = 2
    LOCKED = 3
    NO_STACK = 4
    INTERRUPTED = 130


class FirstlightError(Exception):
    """Base of every expected failure: shown as text and hint, never as a traceback."""

    exit_code: Exit = Exit.RED
    cause: str | None = None
    """The doctor's name of what is wrong, where the error itself knows it (docs/reference/causes.md)."""

    def __init__(self, text: str, *, hint: str | None = None, cause: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint
        if cause:
            self.cause = cause

    def render(self) -> str:
        """The message as a person reads it."""
        head = f"error: {self.text}"
        return f"{head}\n\nhint: {self.hint}" if self.hint else head


class UsageError(FirstlightError):
    """A wrong option or argument."""

    exit_code = Exit.USAGE


class InventoryError(FirstlightError):
    """The inventory is malformed, or a setting in it is wrong."""

    exit_code = Exit.USAGE


class HostLockedError(FirstlightError):
    """Another run works on the same host."""

    exit_code = Exit.LOCKED


class NoStackError(FirstlightError):
    """No matching set exists for a host."""

    exit_code = Exit.NO_STACK


class TransportError(FirstlightError):
    """The host could not be reached, or the connection broke."""


class HostKeyError(TransportError):
    """The host's key is not the known one, or not known at all."""


class RemoteCommandError(FirstlightError):
    """A command on a host ended otherwise than it should."""


class StageError(FirstlightError):
    """The bytes of a Stack could not be had, or are not the right ones."""


class IndexUnreachableError(StageError):
    """Indexes that may hold a build told nothing of it."""

    cause = "index-unreachable"

    def __init__(self, places: Mapping[str, str], builds: Iterable[str]) -> None:
        """`places` has by the index's address, without credentials, what was met there; `builds` names what was looked for."""
        self.places = dict(places)
        self.builds = tuple(builds)
        said: dict[str, list[str]] = {}
        for address, problem in places.items():
            said.setdefault(problem, []).append(urlsplit(address).netloc or address)
        told = (
            f"{' and '.join(dict.fromkeys(hosts))} cannot be reached ({problem})" for problem, hosts in said.items()
        )
        super().__init__("; ".join(told), hint=index_access_hint(self.places))


def index_access_hint(indexes: Iterable[str]) -> str:
    """What gives a controller the files of indexes, told by address, that it cannot reach."""
    hosts: dict[str, str] = {}
    for address in indexes:
        hosts.setdefault(urlsplit(address).netloc or address, address)
    return (
        f"let the controller reach {' and '.join(hosts)}; or name a mirror of {' and of '.join(hosts.values())} as an extra index "
        "in your pip or uv settings (PIP_EXTRA_INDEX_URL, UV_INDEX); or bring a bundle (--bundle)"
    )


class BundleError(FirstlightError):
    """A bundle cannot be made, is not whole, or is not signed by who is trusted."""


class InstallError(FirstlightError):
    """A playbook failed on a host."""


class ServeError(FirstlightError):
    """The service did not come up, or did not answer as it must."""


class ModelError(FirstlightError):
    """A model's files are not those of a model that can be served."""

    exit_code = Exit.USAGE
