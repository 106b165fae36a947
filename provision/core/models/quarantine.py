"""The mark of a host whose hardware failed a check: PREFIX/quarantine.json there, and in the controller's state."""

from __future__ import annotations

from provision.core.models.base import Record


class MarkedCard(Record):
    """The GPU that a mark speaks of, as far as it is known."""

    device: str | None = None
    """As the check named it, such as `cuda:3`."""
    name: str | None = None
    pci_address: str | None = None
    uuid: str | None = None
    serial: str | None = None

    def __str__(self) -> str:
        known = (self.name, self.device, self.pci_address, self.uuid, self.serial and f"serial number {self.serial}")
        return ", ".join(filter(None, known))


class Quarantine(Record):
    """Why a host takes no part in runs, since when, and until when."""

    at: str
    """UTC, ISO 8601, the controller's clock; it also distinguishes marks of one host."""
    check: str
    """Id of the check that failed."""
    text: str
    card: MarkedCard | None = None
    run: str | None = None
    controller: str | None = None
    """Name of the machine whose run marked the host."""
    released_at: str | None = None
    """When a full verification lifted it; None while it is in force."""

    @property
    def sentence(self) -> str:
        """Return the reason as text."""
        card = f" ({self.card})" if self.card and str(self.card) else ""
        return f"quarantined since {self.at}: check `{self.check}`: {self.text}{card}"
