"""What can go wrong, as types: one exception a failure class, its values as data, its exit code fixed.

Exit codes are public (docs/reference/exit-codes.md). The text of an error says what is wrong and with
which values; the hint names the next command or the setting to change.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command but `verify` and `doctor`, which have scales of their own."""

    OK = 0
    RED = 1
    USAGE = 2
    HELD = 3
    NO_STACK = 4
    INTERRUPTED = 130


class FirstlightError(Exception):
    """Base of every expected failure: shown as text and hint, never as a traceback."""

    exit_code: Exit = Exit.RED

    def __init__(self, text: str, *, hint: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint

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


class HeldError(FirstlightError):
    """Another run works on the same host."""

    exit_code = Exit.HELD


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


class BundleError(FirstlightError):
    """A bundle cannot be made, is not whole, or is not signed by who is trusted."""


class InstallError(FirstlightError):
    """A playbook failed on a host."""


class ServeError(FirstlightError):
    """The service did not come up, or did not answer as it must."""


class ModelError(FirstlightError):
    """A model's files are not those of a model that can be served."""

    exit_code = Exit.USAGE
