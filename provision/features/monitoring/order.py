"""Monitoring is set up after the gateways, whose figures it reads."""

from provision.features.monitoring.monitoring import apply
from provision.run.step import Step

STEP = Step(
    "monitoring",
    apply,
    "serve",
    "all",
    applies=lambda run: any(host.is_monitoring for host in run.inventory.hosts),
    after="serve",
    rank=2,
)
