"""Quarantined hosts: LOGS/quarantine/HOST.json on the controller, and which of two marks is in force."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from provision.core.models.inventory import Host
from provision.core.models.quarantine import Quarantine
from provision.fleet.host_records import HostRecord, HostRecords, address_of

UNKNOWN_TIME = "an unknown time"


class KeptMark(HostRecord):
    """A mark in the controller's state."""

    on_host: bool
    """Whether the host has the mark too."""
    mark: Quarantine


class QuarantineStore:
    """The marks that this controller knows of."""

    def __init__(self, logs: Path) -> None:
        self._records = HostRecords(logs / "quarantine", KeptMark)

    def put(self, host: Host, mark: Quarantine, *, on_host: bool) -> None:
        """Keep a mark; after a power failure the old or the new state is there."""
        self._records.put(host, KeptMark(address=address_of(host), on_host=on_host, mark=mark))

    def get(self, host: Host) -> KeptMark | None:
        """Return the mark of a host; None without one. One that cannot be read is in force: nobody knows what it says."""
        try:
            return self._records.get(host)
        except (OSError, ValueError):
            mark = unreadable(str(self._records.path(host)))
            return KeptMark(address=address_of(host), on_host=False, mark=mark)

    def forget(self, host: Host) -> None:
        """Remove the mark of a host."""
        if self.get(host) is not None:
            self._records.remove(host)


def unreadable(path: str) -> Quarantine:
    """Return the mark of a host whose own cannot be read."""
    return Quarantine(at=UNKNOWN_TIME, check="unknown", text=f"`{path}` cannot be read")


def mark_of(document: Mapping[str, Any] | None, path: str) -> Quarantine | None:
    """Return the mark that the probe found on a host.

    Args:
        document: The content of the file; empty where it is no JSON object, None without the file.
        path: The file, for the text of a mark that cannot be read.
    """
    if document is None:
        return None
    try:
        return Quarantine.model_validate(document)
    except ValidationError:
        return unreadable(path)


def in_force(on_host: Quarantine | None, kept: Quarantine | None) -> Quarantine | None:
    """Return the mark in force of a host; None without one.

    The controller's own is over when the host says that this mark, or a later one, was released: another controller did that.

    Args:
        on_host: The mark on the host.
        kept: The mark in the controller's state.
    """
    if on_host is not None and on_host.released_at is None:
        return on_host
    if kept is None or (on_host is not None and on_host.at >= kept.at):
        return None
    return kept
