"""Stage: the exact bytes of a Stack, on the controller, ready to be sent."""

from provision.phases.stage.staging import disk_needed, stage
from provision.phases.stage.wheelhouse import Store

__all__ = ["Store", "disk_needed", "stage"]
