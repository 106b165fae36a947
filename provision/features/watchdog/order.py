"""The watchdog is set up when hosts serve, before the gateway, which asks its health agents."""

from __future__ import annotations

from provision.features.watchdog.watchdog import apply
from provision.run.context import RunContext
from provision.run.step import FeatureStep, Step


def _has_serving(context: RunContext) -> bool:
    return any(host.is_serving for host in context.inventory.hosts)


WATCHDOG = Step("watchdog", apply, "serve", applies=_has_serving)
STEPS = (FeatureStep(WATCHDOG, after="serve"),)
