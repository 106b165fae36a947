"""The order of bundles: a host gets no environment of an older bundle than its last one, unless the user accepts that.

A signature says who created a bundle, not that it is the newest. An old one, with errors that are known by now, is properly signed too.
"""

from __future__ import annotations

from pathlib import Path

from provision.catalog.index.settings import BundledContent
from provision.core.errors import BundleError
from provision.core.models.inventory import Host
from provision.fleet.host_records import HostRecord, HostRecords, address_of


class LastBundle(HostRecord):
    """The bundle that a host's environment was last prepared from."""

    name: str
    made_at: str


class LastBundles:
    """The last bundle of each host: LOGS/bundles/HOST.json on the controller."""

    def __init__(self, logs: Path) -> None:
        self._records = HostRecords(logs / "bundles", LastBundle)

    def get(self, host: Host) -> LastBundle | None:
        """Return the last bundle of a host; None without one, and where the record cannot be read."""
        try:
            return self._records.get(host)
        except (OSError, ValueError):
            return None

    def put(self, host: Host, bundle: BundledContent) -> None:
        """Keep a bundle as the last one of a host."""
        self._records.put(host, LastBundle(address=address_of(host), name=bundle.name, made_at=bundle.made_at))


def accept_bundle(bundle: BundledContent, host: Host, lasts: LastBundles, *, accepts_older: bool) -> None:
    """Keep a bundle as the last one of a host whose environment changes.

    Args:
        bundle: The bundle with the new environment.
        host: The host.
        lasts: The last bundle of each host.
        accepts_older: Whether the user accepts one that is older than the last.

    Raises:
        BundleError: The bundle is older than the last one of the host, and the user does not accept that.
    """
    last = lasts.get(host)
    if last is not None and bundle.made_at < last.made_at and not accepts_older:
        raise BundleError(
            f"`{bundle.name}` was created {bundle.made_at}, and `{host.name}` got an environment from "
            f"`{last.name}` of {last.made_at} already",
            hint="use the newer bundle; to go back on purpose, add --older-bundle",
        )
    lasts.put(host, bundle)
