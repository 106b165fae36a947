"""The step before the hosts of a span start."""

from __future__ import annotations

from provision.features.multinode.start import prepare
from provision.pipeline.conditions import has_span
from provision.pipeline.step import FeatureStep, Step

SPAN_START = Step("span-start", prepare, "verify", applies=has_span, in_batches=True)
STEPS = (FeatureStep(SPAN_START, after="verify"),)
