"""The step that audits what a run staged, as soon as the locks are known."""

from __future__ import annotations

from provision.features.audit.audit import apply
from provision.run.context import RunContext
from provision.run.step import FeatureStep, Step


def _has_network(context: RunContext) -> bool:
    return context.options.client is None or context.options.client.bundled is None


AUDIT = Step("audit", apply, "stage", applies=_has_network, in_batches=True)
STEPS = (FeatureStep(AUDIT, after="stage"),)
