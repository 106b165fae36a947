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
from provision.catalog.rows import DistributionDriver
from provision.catalog.versions import numbers
from provision.errors import UsageError
from provision.resolve.view import View

Source = Literal["vendor", "distribution"]


@dataclass(frozen=True, slots=True)
class Supply:
    """One driver that can be had: `row` is the distribution's, None for the vendor's."""

    source: Source
    version: str
    why: str
    row: DistributionDriver | None = None


def choose(view: View, least: str) -> Supply:
    """Where a driver for a class comes from, and which; `least` is the lowest version that the candidate runs on."""
    policy = view.policy
    asked = policy.driver_version or wanted_version(policy.driver_branch)
    if view.driver_mended and policy.driver != "pinned":
        asked = max(asked, wanted_version((view.driver or "").partition(".")[0]), key=numbers)
    if policy.driver_source == "vendor" or policy.driver_mirror:
        why = "a mirror of its packages is named" if policy.driver_mirror else "asked for"
        return Supply("vendor", asked, why)
    pinned = policy.driver_version or policy.driver_branch
    row = _row(view.os_id, view.os_version, view.machine, branch=pinned.partition(".")[0] if pinned else None)
    if policy.driver_source == "distribution":
        version = policy.driver_version or (row.version if row else asked)
        return Supply("distribution", version, "asked for", row)
    if row is not None and policy.driver_version in {None, row.version} and numbers(row.version) >= numbers(least):
        if row.signed and view.around.secure_boot:
            why = f"Secure Boot is on, and {view.os_id} signs these modules itself: no key has to be enrolled"
            return Supply("distribution", row.version, why, row)
        if not _has_vendor_packages(view.os_id, view.os_version):
            why = f"the vendor publishes none for {view.os_id} {view.os_version}"
            return Supply("distribution", row.version, why, row)
    return Supply("vendor", asked, "the usual choice")


@cache
def wanted_version(branch: str | None) -> str:
    """The newest release seen of a branch; of the branch that is offered where none is named."""
    newest = next((row.newest for row in catalog().branches if str(row.branch) == branch), None)
    return newest or catalog().driver_offer.version


_row = cache(distribution_driver)


@cache
def _has_vendor_packages(os_id: str | None, version_id: str | None) -> bool:
    try:
        package_system(os_id, version_id)
    except UsageError:
        return False
    return True
