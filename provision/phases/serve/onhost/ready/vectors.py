"""Check of a user's model that makes vectors: embeddings of texts, or scores of pairs, which count as vectors of one number. A part of ready.pyz."""

from __future__ import annotations

import json
import math
import time
from itertools import combinations
from pathlib import Path
from typing import Any

from .answer import NotProvenError, Server
from .reference import wait_for
from .service import ReadinessRequest
from .user_model import OTHER, SAME, fingerprint

Vector = list[float]

ROUNDING = {"float32": 0.003, "float16": 0.02, "bfloat16": 0.1}
"""Largest distance of a vector from that of transformers in float32, by the number type of the server.

A share of the vector's length; of a score that is less than 1, the difference itself.
"""
ALLOWED = {SAME: 0.02, OTHER: 0.1}
"""Largest distance from the last green run, by what that run served with."""
LEAST_DIFFERENCE = 0.0001
"""Distance that different texts have at least: a server that ignores its input gives them equal vectors."""
UNIT = 0.01
"""Largest deviation of the length of a normalised vector from 1."""


def vectors(server: Server, inputs: list[Any]) -> list[Vector]:
    """Return the server's vector of each input, asked for together."""
    if server.request.task == "embed":
        body: dict[str, Any] = {"input": inputs, "encoding_format": "float"}
        answer = json.loads(server.ask("/v1/embeddings", body).read())
        return [list(map(float, one["embedding"])) for one in _in_order(answer)]
    questions, texts = (list(side) for side in zip(*inputs, strict=True))
    answer = json.loads(server.ask("/v1/score", {"text_1": questions, "text_2": texts}).read())
    return [[float(one["score"])] for one in _in_order(answer)]


def _in_order(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(answer["data"], key=lambda one: int(one["index"]))


def check_vectors(request: ReadinessRequest, reference: dict[str, Any], dtype: str, server: Server) -> list[str]:
    """Return evidence that the vectors of fixed texts are those of the model, and as in its last green run; store them.

    Raises:
        NotProvenError: They are not.
    """
    inputs = reference["inputs"]
    alone = [vectors(server, [one])[0] for one in inputs]
    evidence = [check_properties(alone, vectors(server, inputs), dtype, is_normalised=reference["is_normalised"])]
    evidence.append(check_reference(alone, reference, dtype))
    key = {"model": fingerprint(Path(request.model_folder)), "dtype": dtype, "inputs": inputs}
    path = Path(request.prefix) / "verify" / f"vectors-{Path(request.model_folder).name}.json"
    try:
        last = json.loads(path.read_text())
    except (OSError, ValueError):
        last = {}
    if last and all(last.get(name) == value for name, value in key.items()):
        evidence.append(check_last(alone, last, SAME if last["release"] == request.release else OTHER, path))
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({**key, "release": request.release, "at": at, "vectors": alone}) + "\n")
    temporary.replace(path)
    return evidence


def check_adapter(name: str, adapter: Server, base: Server) -> str:
    """Return evidence that an adapter changes the vectors of its base model.

    Raises:
        NotProvenError: It does not.
    """
    inputs = wait_for(base.request)["inputs"]
    first, found, again = (vectors(each, inputs) for each in (base, adapter, base))
    noise, effect = (max(map(distance, other, first)) for other in (again, found))
    text = f"adapter `{name}` changes vectors of fixed texts by up to {effect:.4f}"
    if not effect > max(LEAST_DIFFERENCE, 2 * noise):
        raise NotProvenError(
            f"{text}: the model without it differs by up to {noise:.4f}; it is not applied, or its weights are zero"
        )
    return text


def distance(found: Vector, expected: Vector) -> float:
    """Return the distance of two vectors as a share of the length of the second; numbers that are less than 1 are not divided."""
    if len(found) != len(expected):
        return math.inf
    length = math.hypot(*expected)
    off = math.dist(found, expected) / (max(length, 1.0) if len(expected) == 1 else length or 1.0)
    return math.inf if math.isnan(off) else off


def check_properties(alone: list[Vector], together: list[Vector], dtype: str, *, is_normalised: bool) -> str:
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
    if not noise <= _rounding(dtype):
        raise NotProvenError(
            f"the vector of a text differs by {noise:.3f} alone and among others; {dtype} rounds by at most {_rounding(dtype)}"
        )
    least = min(distance(*pair) for pair in combinations(alone, 2))
    if not least > max(LEAST_DIFFERENCE, 2 * noise):
        raise NotProvenError(
            f"vectors of different texts differ by {least:.5f}, those of the same text by up to {noise:.5f}: the server ignores its input"
        )
    return f"{len(alone)} texts have different vectors of {sizes[0]} {'number' if sizes[0] == 1 else 'numbers'}, alone and together within {noise:.5f}"


def check_reference(found: list[Vector], reference: dict[str, Any], dtype: str) -> str:
    """Return evidence that the vectors are those of transformers in float32, as far as these are known."""
    if reference["vectors"] is None:
        return f"not compared with transformers: {reference['unknown']}"
    worst = max(map(distance, found, reference["vectors"]))
    text = f"vectors differ from those of transformers in float32 by up to {worst:.4f} of their length"
    if not worst <= _rounding(dtype):
        raise NotProvenError(
            f"{text}; {dtype} rounds by at most {_rounding(dtype)}: weights or pooling are not the model's"
        )
    return text


def check_last(found: list[Vector], last: dict[str, Any], whose: str, path: Path) -> str:
    """Return evidence that the vectors are those of the last green run."""
    worst = max(map(distance, found, last["vectors"]))
    text = f"vectors differ from the last green run ({last['at']}, {whose}) by up to {worst:.4f} of their length"
    if not worst <= ALLOWED[whose]:
        raise NotProvenError(f"{text}; allowed {ALLOWED[whose]}; if that is meant, remove {path}")
    return text


def _rounding(dtype: str) -> float:
    return ROUNDING.get(dtype, ROUNDING["float32"])
