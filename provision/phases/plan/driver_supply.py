"""Whose packages bring a driver: the vendor's repository, or the distribution's own.

The vendor's unless the settings name the distribution's, with two exceptions: under Secure Boot a distribution that signs its
modules itself is preferred where its driver reaches, since nobody has to enrol a key at the console; and where the vendor
publishes nothing for a system, the distribution's is all there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from provision.catalog import catalog
from provision.catalog.packages import distribution_driver, package_system
from provision.catalog.rows.packages import DistributionDriver
from provision.catalog.versions import numbers
from provision.core.errors import UsageError

Source = Literal["vendor", "distribution"]


@dataclass(frozen=True, slots=True)
class Supply:
    """One driver that can be had: `row` is the distribution's, None for the vendor's."""

    source: Source
    version: str
    why: str
    row: DistributionDriver | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DriverRequest:
    """What of a class decides where a driver comes from that is brought, and which. One object for equal ones: see `request`."""

    version: str | None
    """The one that was asked for, to the last digit."""
    branch: str | None
    source: Literal["auto", "vendor", "distribution"]
    mirror: bool
    broken: str | None
    """The version that does not answer and is installed anew, where no other was asked for."""
    os_id: str | None
    os_version: str | None
    machine: str | None
    secure_boot: bool | None
    subnet_manager: bool
    """Whether nvlsm goes with it, which the vendor alone has."""


driver_request = cache(DriverRequest)
"""One object for equal fields, so that it is cheap to look things up by."""


@cache
def choose(request: DriverRequest, least: str) -> Supply:
    """Where a driver comes from, and which; `least` is the lowest version that the candidate runs on."""
    wanted = request.version or wanted_version(request.branch)
    if request.broken:
        wanted = max(wanted, wanted_version(request.broken.partition(".")[0]), key=numbers)
    if request.source == "vendor" or request.mirror:
        return Supply("vendor", wanted, "a mirror of its packages is named" if request.mirror else "asked for")
    pinned = request.version or request.branch
    branch = pinned.partition(".")[0] if pinned else None
    row = distribution_driver(request.os_id, request.os_version, request.machine, branch=branch)
    if request.source == "distribution":
        return Supply("distribution", request.version or (row.version if row else wanted), "asked for", row)
    if request.subnet_manager:
        return Supply("vendor", wanted, "it alone has nvlsm, which these boards need")
    if row is not None and request.version in {None, row.version} and numbers(row.version) >= numbers(least):
        if row.signed and request.secure_boot:
            why = f"Secure Boot is on, and {request.os_id} signs these modules itself: no key has to be enrolled"
            return Supply("distribution", row.version, why, row)
        if not _has_vendor_packages(request.os_id, request.os_version):
            why = f"the vendor publishes none for {request.os_id} {request.os_version}"
            return Supply("distribution", row.version, why, row)
    return Supply("vendor", wanted, "the usual choice")


@cache
def wanted_version(branch: str | None) -> str:
    """The newest release seen of a branch; of the branch that is offered where none is named."""
    newest = next((row.newest for row in catalog().branches if str(row.branch) == branch), None)
    return newest or catalog().driver_offer.version


def _has_vendor_packages(os_id: str | None, version_id: str | None) -> bool:
    try:
        package_system(os_id, version_id)
    except UsageError:
        return False
    return True
