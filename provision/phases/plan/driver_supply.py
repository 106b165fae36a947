"""The source of a driver: the vendor's repository, or the distribution.

In this order:
1. A mirror of the vendor's packages, or the source that the settings name.
2. The vendor's packages for boards that need nvlsm, which only the vendor has.
3. The distribution's packages under Secure Boot, if it signs them and their version suffices: no key must be enrolled.
4. The distribution's packages, if the vendor has none for the system.
5. The vendor's packages.
"""

from dataclasses import dataclass
from typing import Literal

from provision.catalog import catalog
from provision.catalog.packages import distribution_driver, find_package_system
from provision.catalog.rows.packages import DistributionDriver
from provision.catalog.versions import numbers
from provision.phases.plan.host_profile import HostProfile

Source = Literal["vendor", "distribution"]


@dataclass(frozen=True)
class Supply:
    """An available driver. `row` is None for the vendor's."""

    source: Source
    version: str
    why: str
    row: DistributionDriver | None = None


def choose(profile: HostProfile, least: str) -> Supply:
    """Return the driver to install on a host. `least` is the lowest version that the candidate needs."""
    policy, secure_boot = profile.policy, profile.environment.secure_boot
    wanted = policy.driver_version or wanted_version(policy.driver_branch)
    if profile.driver and (policy.driver == "upgrade" or (profile.driver_reinstalled and policy.driver != "pinned")):
        # the new one is of no older branch than the one that it replaces
        wanted = max(wanted, wanted_version(profile.driver.partition(".")[0]), key=numbers)
    if policy.driver_source == "vendor" or policy.driver_mirror:
        return Supply("vendor", wanted, "the settings name a mirror" if policy.driver_mirror else "as requested")
    pinned = policy.driver_version or policy.driver_branch
    row = distribution_driver(
        profile.os_id,
        profile.os_version,
        profile.machine,
        branch=pinned.partition(".")[0] if pinned else None,
        module="open" if profile.needs_open_module else None,
    )
    if policy.driver_source == "distribution":
        return Supply("distribution", policy.driver_version or (row.version if row else wanted), "as requested", row)
    if any(card.row is not None and card.row.subnet_manager for card in profile.cards):
        return Supply("vendor", wanted, "only the vendor has nvlsm, which these boards need")
    if row is not None and policy.driver_version in {None, row.version} and numbers(row.version) >= numbers(least):
        if row.signed and secure_boot:
            why = f"Secure Boot is on, and {profile.os_id} signs these modules: no key must be enrolled"
            return Supply("distribution", row.version, why, row)
        if find_package_system(profile.os_id, profile.os_version) is None:
            why = f"the vendor has none for {profile.os_id} {profile.os_version}"
            return Supply("distribution", row.version, why, row)
    return Supply("vendor", wanted, "the default")


def wanted_version(branch: str | None) -> str:
    """Return the newest known release of a branch; without a branch, the offered driver."""
    newest = next((row.newest for row in catalog().branches if str(row.branch) == branch), None)
    return newest or catalog().driver_offer.version
