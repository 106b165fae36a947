"""The step before the hosts of a span start."""

from provision.features.multinode.start import prepare
from provision.run.step import Step

STEP = Step(
    "span-start",
    prepare,
    "verify",
    applies=lambda run: any(host.span for host in run.inventory.hosts),
    in_batches=True,
    after="verify",
)
