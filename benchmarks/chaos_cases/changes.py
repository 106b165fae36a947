"""What a disturbed run has to do: most changes begin at an installed host, because a bare one takes minutes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from tests.fleet.serving import PREFIX

Target = Literal["first", "second"]
"""One of two settings; a host that serves with one of them is changed to the other."""

SETTINGS: Final[dict[Target, dict[str, Any]]] = {"first": {}, "second": {"firstlight_max_model_len": 400}}

_FROM_SENDING = ("between stage and install", "sending", "arrival", "install", "verify", "switch", "start", "end")
"""Moments of a run that sends files to its host, once they are staged."""
_REMOVE_ENVIRONMENT = f"rm -rf $(readlink -f {PREFIX}/current)"


@dataclass(frozen=True)
class Change:
    """A change and the moments of its run."""

    name: str
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
    change.name: change
    for change in (
        Change(
            "another setting",
            "provision",
            ("probe", "stage", "install", "verify", "switch", "start", "end"),
            6,
            other_target=True,
        ),
        Change("rollback", "rollback", ("probe", "switch", "start", "end"), 2),
        Change(
            "a removed environment",
            "provision",
            (
                "probe",
                "stage",
                *_FROM_SENDING,
            ),
            3,
            before=_REMOVE_ENVIRONMENT,
        ),
        Change(
            "a bare host",
            "provision",
            (
                "probe",
                "stage",
                "packages in the background",
                "upload in the background",
                *_FROM_SENDING,
            ),
            1,
            bare=True,
        ),
    )
}


def other(target: Target) -> Target:
    """Return the other setting."""
    return "second" if target == "first" else "first"
