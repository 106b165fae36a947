"""Which fabric manager goes with the driver, on boards whose cards are joined by NVSwitches."""

from __future__ import annotations

from provision.core.models.facts import HostFacts
from provision.core.models.stack import DriverPlan, Stack
from provision.phases.plan.host_profile import HostProfile


def subnet_managed(profile: HostProfile) -> bool:
    """Whether the cards' NVSwitches are of the generation that a subnet manager (nvlsm) runs; the bus shows these as network cards."""
    return bool(profile.cards) and all(card.row is not None and card.row.subnet_manager for card in profile.cards)


def switched(profile: HostProfile) -> bool | None:
    """Whether the host has NVSwitches; None when that was not seen and has to be concluded from the cards."""
    if profile.platform != "cuda":
        return False
    return None if subnet_managed(profile) else profile.nvswitches


def looks_switched(profile: HostProfile) -> bool:
    """Whether there are as many cards of the kind that serves as on a board with NVSwitches."""
    first = profile.cards[0] if profile.cards else None
    if first is None or first.row is None:
        return False
    return first.row.switched_board == sum(card.name == first.name for card in profile.present)


def version(profile: HostProfile, plan: DriverPlan | None) -> str | None:
    """The fabric manager's version: the driver's, to the last digit; None where none is needed or it is not this system's."""
    if plan is None or profile.foreign_driver or profile.fabric_below:
        return None
    there = switched(profile)
    return plan.version if there or (there is None and looks_switched(profile)) else None


def needs_install(stack: Stack, facts: HostFacts) -> bool:
    """Whether the fabric manager is to be brought: it comes with a new driver, and where it differs from a kept one or does not run."""
    nvidia = facts.nvidia
    if stack.fabric_manager is None or facts.container or facts.wsl:
        return False
    is_kept = stack.driver is not None and stack.driver.action == "keep"
    runs = nvidia is not None and nvidia.fabric_manager_state in {None, "active"}
    return not (is_kept and runs and nvidia is not None and nvidia.fabric_manager_version == stack.fabric_manager)
