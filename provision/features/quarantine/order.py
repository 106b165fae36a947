"""The step that leaves quarantined hosts out: as soon as the probe knows their marks."""

from provision.features.quarantine.quarantine import leave_out
from provision.run.step import FeatureStep, Step

QUARANTINE = Step("quarantine", leave_out, "plan", "all", reads_only=True)
STEPS = (FeatureStep(QUARANTINE, after="probe"),)
