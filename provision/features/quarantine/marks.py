"""The mark of a host whose hardware failed a check: PREFIX/quarantine.json there, LOGS/quarantine/HOST.json on the controller."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from provision.core.models.base import Record
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.fleet.host_records import HostRecord, address_of, get_record, put_record, record_file

NAME = "quarantine.json"
"""The mark of a host, below its prefix."""


class Quarantine(Record):
    """Why a host takes no part in runs, since when, and until when."""

    model_config = ConfigDict(extra="ignore")  # earlier releases kept more

    at: str
    """UTC, ISO 8601, the controller's clock; it also distinguishes marks of one host."""
    check: str
    """Id of the check that failed."""
    text: str
    device: str | None = None
    """The GPU, as the check named it, such as `cuda:3`."""
    run: str | None = None
    controller: str | None = None
    """Name of the machine whose run marked the host."""
    released_at: str | None = None
    """When a full verification lifted it; None while it is in force."""

    @property
    def sentence(self) -> str:
        """Return the reason as text."""
        where = f" on {self.device}" if self.device else ""
        return f"quarantined since {self.at}: check `{self.check}`{where}: {self.text}"


class KeptMark(HostRecord):
    """A mark in the controller's state."""

    model_config = ConfigDict(extra="ignore")  # earlier releases kept more
    mark: Quarantine


class QuarantineStore:
    """The marks that this controller knows of, beside its runs."""

    def __init__(self, logs: Path) -> None:
        self._folder = logs / "quarantine"

    def put(self, host: Host, mark: Quarantine) -> None:
        """Keep a mark; after a power failure the old or the new state is there."""
        put_record(self._folder, host, KeptMark(address=address_of(host), mark=mark))

    def get(self, host: Host) -> Quarantine | None:
        """Return the mark of a host; None without one. One that cannot be read is in force: nobody knows what it says."""
        try:
            kept = get_record(self._folder, host, KeptMark)
        except (OSError, ValueError):
            return _unreadable(str(record_file(self._folder, host)))
        return kept.mark if kept else None

    def forget(self, host: Host) -> None:
        """Remove the mark of a host."""
        if self.get(host) is not None:
            record_file(self._folder, host).unlink(missing_ok=True)


def mark_in_force(store: QuarantineStore, host: Host, facts: HostFacts | None) -> Quarantine | None:
    """Return the mark in force of a host; None without one, and where nothing is live."""
    installed = facts.installed if facts else None
    if has_nothing_live(facts):
        return None
    on_host = mark_of(installed.quarantine, f"{installed.prefix}/{NAME}") if installed else None
    return in_force(on_host, store.get(host))


def has_nothing_live(facts: HostFacts | None) -> bool:
    """Return whether no release is live on a host: then a run checks it in full before one is, and `verify --return` cannot."""
    installed = facts.installed if facts else None
    return (
        facts is not None and installed is not None and not installed.current and "installed.state" not in facts.unknown
    )


def mark_of(document: Mapping[str, Any] | None, path: str) -> Quarantine | None:
    """Return the mark that the probe found on a host, from its file; that of one which cannot be read names the path."""
    if document is None:
        return None
    try:
        return Quarantine.model_validate(document)
    except ValidationError:
        return _unreadable(path)


def in_force(on_host: Quarantine | None, kept: Quarantine | None) -> Quarantine | None:
    """Return the mark in force of a host; None without one.

    The controller's own is over when the host says that this mark, or a later one, was released: another controller did that.
    """
    if on_host is not None and on_host.released_at is None:
        return on_host
    if kept is None or (on_host is not None and on_host.at >= kept.at):
        return None
    return kept


def _unreadable(path: str) -> Quarantine:
    """Return the mark of a host whose own cannot be read."""
    return Quarantine(at="an unknown time", check="unknown", text=f"`{path}` cannot be read")
