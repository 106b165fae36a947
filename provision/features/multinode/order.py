"""The step before the hosts of a span start."""

from provision.features.multinode.start import prepare
from provision.run.context import RunContext
from provision.run.step import FeatureStep, Step


def _has_span(context: RunContext) -> bool:
    return any(host.span for host in context.inventory.hosts)


SPAN_START = Step("span-start", prepare, "verify", applies=_has_span, in_batches=True)
STEPS = (FeatureStep(SPAN_START, after="verify"),)
