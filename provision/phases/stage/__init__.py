"""The stage phase: lock a Stack and fetch every file of it to the controller."""

from provision.phases.stage.staging import disk_needed, stage
from provision.phases.stage.wheelhouse import Store

__all__ = ["Store", "disk_needed", "stage"]
