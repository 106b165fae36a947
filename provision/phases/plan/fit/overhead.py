"""The memory of an engine in addition to weights and cache. All is estimated, except the sizes of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from provision.core.formatting import GIB
from provision.phases.plan.fit.serving_request import DeviceBudget, ServingRequest
from provision.phases.plan.fit.shape import Shape
from provision.phases.plan.fit.tables import activation, batches, platforms

_FLOAT32 = 4


@dataclass(frozen=True)
class Batch:
    """The tokens and sequences that the engine computes at once."""

    tokens: int
    sequences: int


def batch_of(request: ServingRequest, budget: DeviceBudget) -> Batch:
    """Return the requested batch, else vLLM's default for a device of this size."""
    memory = budget.device_bytes if budget.platform != "cpu" else 0
    row = next(row for row in batches() if memory >= row.from_gib * GIB)
    return Batch(request.batch or row.tokens, request.sequences or row.sequences)


def activation_bytes(shape: Shape, batch: Batch, tensor: int, element: int) -> int:
    """Return the bytes on a device at the peak of a forward pass: rows of the layers for every token, logits for every sequence."""
    row = activation()
    inner = max(shape.inner) / tensor
    if shape.experts_a_token:
        inner = shape.experts_a_token * (min(shape.inner) / tensor + shape.hidden / row.inner_copies)
    rows = batch.tokens * (row.hidden_copies * shape.hidden + row.inner_copies * inner) * element
    return int(rows + row.logit_copies * batch.sequences * shape.vocabulary * _FLOAT32)


def fixed_bytes(request: ServingRequest, budget: DeviceBudget, processes: int) -> int:
    """Return the bytes on a device that are independent of the model: context, buffers between peers, captured graphs."""
    row = platforms()[budget.platform]
    return int((row.context + (row.peers if processes > 1 else 0) + (0 if request.eager else row.graphs)) * GIB)
