"""Check of a user's model that makes vectors: embeddings of texts, or scores of pairs, which count as vectors of one number. A part of ready.pyz."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from verify.serving.answers import NotProvenError, of_last
from verify.serving.client import Client
from verify.serving.vectors import Vector, alone_and_together, distance, rounding, vectors
from verify.tables import table

from .reference import LastRun
from .service import ReadinessRequest

LEAST_DIFFERENCE = 0.0001
"""Distance that different texts have at least: a server that ignores its input gives them equal vectors."""
UNIT = 0.01
"""Largest deviation of the length of a normalised vector from 1."""


def check_vectors(request: ReadinessRequest, reference: dict[str, Any], dtype: str, client: Client) -> list[str]:
    """Return evidence that vectors are right, and as in the last green run; keep them. Raises NotProvenError."""
    inputs = reference["inputs"]
    alone, together = alone_and_together(client, request.task, inputs)
    evidence = [check_properties(alone, together, dtype, is_normalised=reference["is_normalised"])]
    evidence.append(check_reference(alone, reference, dtype))
    run = LastRun(request, "vectors", {"dtype": dtype, "inputs": inputs})
    if last := run.answers():
        evidence.append(check_last(alone, last, run))
    run.keep({"vectors": alone})
    return evidence


def check_adapter(name: str, adapter: Client, base: Client, task: str, inputs: Sequence[Any]) -> str:
    """Return evidence that an adapter changes the vectors of its base model. Raises NotProvenError."""
    first, found, again = (vectors(each, task, inputs) for each in (base, adapter, base))
    noise, effect = (max(map(distance, other, first)) for other in (again, found))
    text = f"adapter `{name}` changes vectors of fixed texts by up to {effect:.4f}"
    if not effect > max(LEAST_DIFFERENCE, 2 * noise):
        raise NotProvenError(
            f"{text}: the model without it differs by up to {noise:.4f}; it is not applied, or its weights are zero"
        )
    return text


def check_properties(alone: Sequence[Vector], together: Sequence[Vector], dtype: str, *, is_normalised: bool) -> str:
    """Return evidence of what holds of the vectors of any model."""
    sizes = sorted({len(vector) for vector in (*alone, *together)})
    if not all(math.isfinite(number) for vector in (*alone, *together) for number in vector):
        raise NotProvenError("vectors of fixed texts have numbers that are not finite")
    if len(sizes) != 1 or len(together) != len(alone):
        raise NotProvenError(
            f"{len(alone)} texts have {len(together)} vectors, of {' and '.join(map(str, sizes))} numbers"
        )
    if is_normalised and (wrong := [length for vector in alone if abs((length := math.hypot(*vector)) - 1) > UNIT]):
        raise NotProvenError(f"a vector has length {wrong[0]:.3f}; the model's files normalise it to 1")
    noise = max(map(distance, together, alone))
    if not noise <= rounding(dtype):
        raise NotProvenError(
            f"the vector of a text differs by {noise:.3f} alone and among others; {dtype} rounds by at most {rounding(dtype)}"
        )
    apart = [distance(*pair) for pair in combinations(alone, 2)]
    # A reranker gives about 0 to each text that answers nothing.
    least = max(apart) if sizes == [1] else min(apart)
    if not least > max(LEAST_DIFFERENCE, 2 * noise):
        raise NotProvenError(
            f"vectors of different texts differ by {least:.5f}, those of the same text by up to {noise:.5f}: the server ignores its input"
        )
    return f"{len(alone)} texts have different vectors of {sizes[0]} {'number' if sizes[0] == 1 else 'numbers'}, alone and together within {noise:.5f}"


def check_reference(found: Sequence[Vector], reference: dict[str, Any], dtype: str) -> str:
    """Return evidence that the vectors are those of transformers in float32, as far as these are known."""
    if reference["vectors"] is None:
        return f"not compared with transformers: {reference['unknown']}"
    worst = max(map(distance, found, reference["vectors"]))
    text = f"vectors differ from those of transformers in float32 by up to {worst:.4f} of their length"
    if not worst <= rounding(dtype):
        raise NotProvenError(
            f"{text}; {dtype} rounds by at most {rounding(dtype)}: weights or pooling are not the model's"
        )
    return text


def check_last(found: Sequence[Vector], last: dict[str, Any], run: LastRun) -> str:
    """Return evidence that the vectors are those of the last green run."""
    whose, allowed = of_last(last, run.request.release, table("serving")["vectors"]["allowed"])
    worst = max(map(distance, found, last["vectors"]))
    text = f"vectors differ from the last green run ({last['at']}, {whose}) by up to {worst:.4f} of their length"
    if not worst <= allowed:
        raise NotProvenError(f"{text}; allowed {allowed}; if that is meant, remove {run.path}")
    return text
