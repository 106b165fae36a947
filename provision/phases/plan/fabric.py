"""The fabric manager for boards with NVSwitches."""

from provision.core.models.facts import HostFacts, Nvidia
from provision.core.models.stack import DriverPlan, Stack
from provision.phases.plan.host_profile import HostProfile


def subnet_managed(profile: HostProfile) -> bool:
    """Return whether a subnet manager (nvlsm) runs the NVSwitches; these are network cards on the bus."""
    return bool(profile.cards) and all(card.row is not None and card.row.subnet_manager for card in profile.cards)


def switched(profile: HostProfile) -> bool | None:
    """Return whether the host has NVSwitches; None if only the cards can show it."""
    if profile.platform != "cuda":
        return False
    return None if subnet_managed(profile) else profile.nvswitches


def looks_switched(profile: HostProfile) -> bool:
    """Return whether the host has as many cards of the serving kind as a board with NVSwitches."""
    first = profile.cards[0] if profile.cards else None
    if first is None or first.row is None:
        return False
    return first.row.switched_board == sum(card.name == first.name for card in profile.present)


def version(profile: HostProfile, plan: DriverPlan | None) -> str | None:
    """Return the fabric manager's version, which is the driver's; None if this system needs none."""
    if plan is None or profile.foreign_driver or profile.fabric_below:
        return None
    found = switched(profile)
    return plan.version if found or (found is None and looks_switched(profile)) else None


def needs_install(stack: Stack, facts: HostFacts) -> bool:
    """Return whether to install the fabric manager: with a new driver, or if it differs from a kept driver or does not run."""
    nvidia = facts.nvidia or Nvidia()
    if stack.fabric_manager is None or facts.container or facts.wsl:
        return False
    is_kept = stack.driver is not None and stack.driver.action == "keep"
    runs = nvidia.fabric_manager_state in {None, "active"}
    return not (is_kept and runs and nvidia.fabric_manager_version == stack.fabric_manager)
