"""What a disturbed run has to do: most changes begin at an installed host, because a bare one takes minutes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from tests.fleet.serving import PREFIX

Target = Literal["first", "second"]
"""One of two settings; a host that serves with one of them is changed to the other."""

SETTINGS: Final[dict[Target, dict[str, Any]]] = {"first": {}, "second": {"firstlight_max_model_len": 400}}

_SWITCH = ("switch", "start", "end")
_FROM_SENDING = ("between stage and install", "sending", "arrival", "install", "verify", *_SWITCH)
"""Moments of a run that sends files to its host, once they are staged."""
_IN_THE_BACKGROUND = ("packages in the background", "upload in the background")


@dataclass(frozen=True)
class Change:
    """A change and the moments of its run."""

    command: Literal["provision", "rollback"]
    moments: tuple[str, ...]
    weight: int
    """How often it is drawn, compared with the others."""
    before: str = ""
    """What root does on the host before the run."""
    other_target: bool = False
    """Whether the run asks for the other setting."""
    bare: bool = False
    """Whether the installation, and the packages that came with it, are removed before the run."""


CHANGES = {
    "another setting": Change(
        "provision", ("probe", "stage", "install", "verify", *_SWITCH), weight=6, other_target=True
    ),
    "rollback": Change("rollback", ("probe", *_SWITCH), weight=2),
    "a removed environment": Change(
        "provision", ("probe", "stage", *_FROM_SENDING), weight=3, before=f"rm -rf $(readlink -f {PREFIX}/current)"
    ),
    "a bare host": Change("provision", ("probe", "stage", *_IN_THE_BACKGROUND, *_FROM_SENDING), weight=1, bare=True),
}


def other(target: Target) -> Target:
    """Return the other setting."""
    return "second" if target == "first" else "first"
