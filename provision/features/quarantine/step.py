"""The step that leaves quarantined hosts out: as soon as the probe knows their marks."""

from provision.features.quarantine.quarantine import leave_out
from provision.run.step import Step

STEP = Step("quarantine", leave_out, "plan", "all", reads_only=True, after="probe")
