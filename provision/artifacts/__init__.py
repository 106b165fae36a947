"""Stage: the exact bytes of a Stack, on the controller, ready to be sent."""

from provision.artifacts.room import disk_needed, stage
from provision.artifacts.wheelhouse import Store

__all__ = ["Store", "disk_needed", "stage"]
