"""The gateway is set up when hosts serve, before what watches and protects them."""

from provision.features.gateway.gateway import apply
from provision.run.step import FeatureStep, Step

GATEWAY = Step(
    "gateway", apply, "serve", "all", applies=lambda run: any(host.is_gateway for host in run.inventory.hosts)
)
STEPS = (FeatureStep(GATEWAY, after="serve", rank=1),)
