"""The stage phase: lock a Stack and fetch every file of it to the controller."""

from provision.phases.stage.staging import DiskNeed, builds_in, builds_of, disk_needed, stage, staged_before
from provision.phases.stage.wheelhouse import Store

__all__ = ["DiskNeed", "Store", "builds_in", "builds_of", "disk_needed", "stage", "staged_before"]
