"""The gateway is set up when hosts serve, before what watches and protects them."""

from provision.features.gateway.gateway import apply
from provision.run.context import RunContext
from provision.run.step import FeatureStep, Step


def _has_gateway(context: RunContext) -> bool:
    return any(host.is_gateway for host in context.inventory.hosts)


GATEWAY = Step("gateway", apply, "serve", "all", applies=_has_gateway)
STEPS = (FeatureStep(GATEWAY, after="serve", rank=1),)
