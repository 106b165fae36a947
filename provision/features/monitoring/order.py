"""Monitoring is set up after the gateways, whose figures it reads."""

from provision.features.monitoring.monitoring import apply
from provision.run.context import RunContext
from provision.run.step import FeatureStep, Step


def _has_monitoring(context: RunContext) -> bool:
    return any(host.is_monitoring for host in context.inventory.hosts)


MONITORING = Step("monitoring", apply, "serve", "all", applies=_has_monitoring)
STEPS = (FeatureStep(MONITORING, after="serve", rank=2),)
