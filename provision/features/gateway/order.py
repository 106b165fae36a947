"""The gateway is set up when hosts serve, before what watches and protects them."""

from provision.features.gateway.gateway import apply
from provision.run.step import Step

STEP = Step(
    "gateway",
    apply,
    "serve",
    "all",
    applies=lambda run: any(host.is_gateway for host in run.inventory.hosts),
    after="serve",
    rank=1,
)
