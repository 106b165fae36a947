"""Which fabric manager goes with the driver, on boards whose cards are joined by NVSwitches."""

from __future__ import annotations

from provision.models.stack import DriverPlan
from provision.resolve.view import View


def switched(view: View) -> bool | None:
    """Whether the host has NVSwitches; None when that was not seen and has to be concluded from the cards."""
    if view.platform != "cuda":
        return False
    return view.nvswitches


def looks_switched(view: View) -> bool:
    """Whether the cards are as many, and of the kind, as on a board with NVSwitches."""
    boards = {card.row.switched_board for card in view.cards if card.row}
    return len(boards) == 1 and len(view.cards) in boards


def version(view: View, plan: DriverPlan | None) -> str | None:
    """The fabric manager's version: the driver's, to the last digit; None where none is needed or it is the container's host's."""
    if plan is None or view.container:
        return None
    there = switched(view)
    return plan.version if there or (there is None and looks_switched(view)) else None
