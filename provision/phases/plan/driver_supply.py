"""The source of a driver: the vendor's repository, or the distribution.

In this order:
1. A mirror of the vendor's packages, or the source that the settings name.
2. The vendor's packages for boards that need nvlsm, which only the vendor has.
3. The distribution's packages under Secure Boot, if it signs them and their version suffices: no key must be enrolled.
4. The distribution's packages, if the vendor has none for the system.
5. The vendor's packages.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from provision.catalog import catalog
from provision.catalog.packages import distribution_driver, find_package_system
from provision.catalog.rows.packages import DistributionDriver
from provision.catalog.versions import numbers

Source = Literal["vendor", "distribution"]


@dataclass(frozen=True)
class Supply:
    """An available driver. `row` is None for the vendor's."""

    source: Source
    version: str
    why: str
    row: DistributionDriver | None = None


@dataclass(frozen=True)
class DriverRequest:
    """The part of a profile that decides on a driver to install."""

    version: str | None
    """The requested version."""
    branch: str | None
    source: Literal["auto", "vendor", "distribution"]
    mirror: bool
    replaced: str | None
    """The version that is reinstalled or upgraded, if no other is requested: the new one is of no older branch."""
    os_id: str | None
    os_version: str | None
    machine: str | None
    secure_boot: bool | None
    subnet_manager: bool
    """Whether the board needs nvlsm."""


@cache
def choose(request: DriverRequest, least: str) -> Supply:
    """Return the driver for a request. `least` is the lowest version that the candidate needs."""
    wanted = request.version or wanted_version(request.branch)
    if request.replaced:
        wanted = max(wanted, wanted_version(request.replaced.partition(".")[0]), key=numbers)
    if request.source == "vendor" or request.mirror:
        return Supply("vendor", wanted, "the settings name a mirror" if request.mirror else "as requested")
    pinned = request.version or request.branch
    branch = pinned.partition(".")[0] if pinned else None
    row = distribution_driver(request.os_id, request.os_version, request.machine, branch=branch)
    if request.source == "distribution":
        return Supply("distribution", request.version or (row.version if row else wanted), "as requested", row)
    if request.subnet_manager:
        return Supply("vendor", wanted, "only the vendor has nvlsm, which these boards need")
    if row is not None and request.version in {None, row.version} and numbers(row.version) >= numbers(least):
        if row.signed and request.secure_boot:
            why = f"Secure Boot is on, and {request.os_id} signs these modules: no key must be enrolled"
            return Supply("distribution", row.version, why, row)
        if find_package_system(request.os_id, request.os_version) is None:
            why = f"the vendor has none for {request.os_id} {request.os_version}"
            return Supply("distribution", row.version, why, row)
    return Supply("vendor", wanted, "the default")


@cache
def wanted_version(branch: str | None) -> str:
    """Return the newest known release of a branch; without a branch, the offered driver."""
    newest = next((row.newest for row in catalog().branches if str(row.branch) == branch), None)
    return newest or catalog().driver_offer.version
