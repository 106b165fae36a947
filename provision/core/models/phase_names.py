"""The phases of a run, in their order."""

from typing import Literal

PhaseName = Literal["probe", "plan", "stage", "install", "verify", "serve"]
PHASES: tuple[PhaseName, ...] = ("probe", "plan", "stage", "install", "verify", "serve")
