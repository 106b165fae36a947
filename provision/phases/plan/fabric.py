"""Which fabric manager goes with the driver, on boards whose cards are joined by NVSwitches."""

from __future__ import annotations

from provision.core.models.facts import HostFacts
from provision.core.models.stack import DriverPlan, Stack
from provision.phases.plan.host_profile import View


def subnet_managed(view: View) -> bool:
    """Whether the cards' NVSwitches are of the generation that a subnet manager (nvlsm) runs; the bus shows these as network cards."""
    return bool(view.cards) and all(card.row is not None and card.row.subnet_manager for card in view.cards)


def switched(view: View) -> bool | None:
    """Whether the host has NVSwitches; None when that was not seen and has to be concluded from the cards."""
    if view.platform != "cuda":
        return False
    return None if subnet_managed(view) else view.nvswitches


def looks_switched(view: View) -> bool:
    """Whether there are as many cards of the kind that serves as on a board with NVSwitches."""
    first = view.cards[0] if view.cards else None
    if first is None or first.row is None:
        return False
    return first.row.switched_board == sum(card.name == first.name for card in view.present)


def version(view: View, plan: DriverPlan | None) -> str | None:
    """The fabric manager's version: the driver's, to the last digit; None where none is needed or it is not this system's."""
    if plan is None or view.foreign_driver or view.fabric_below:
        return None
    there = switched(view)
    return plan.version if there or (there is None and looks_switched(view)) else None


def is_mended(stack: Stack, facts: HostFacts) -> bool:
    """Whether the fabric manager is to be brought: it comes with a new driver, and where it differs from a kept one or does not run."""
    nvidia = facts.nvidia
    if stack.fabric_manager is None or facts.container or facts.wsl:
        return False
    is_kept = stack.driver is not None and stack.driver.action == "keep"
    runs = nvidia is not None and nvidia.fabric_manager_state in {None, "active"}
    return not (is_kept and runs and nvidia is not None and nvidia.fabric_manager_version == stack.fabric_manager)
