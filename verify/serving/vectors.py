"""Vectors of a service whose model makes embeddings, or scores of pairs of texts, which count as vectors of one number.

And how long a request for text or a vector takes.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from verify.serving.answers import GREEDY, by_type
from verify.serving.client import Client, RequestError
from verify.tables import table

TEXTS: Sequence[str] = ("the telescope saw its first light.", "boil the eggs in salted water.")
INPUTS: Mapping[str, Sequence[Any]] = {"embed": TEXTS, "score": [[TEXTS[0], text] for text in TEXTS]}
"""Asked where no green run kept any."""

Vector = Sequence[float]


def vectors(client: Client, task: str, inputs: Sequence[Any]) -> list[Vector]:
    """Return the vector of each input, asked for in one request. Raises RequestError."""
    if task == "embed":
        body: dict[str, Any] = {"input": list(inputs), "encoding_format": "float"}
        answer = client.post("/v1/embeddings", body)
        return [one["embedding"] for one in _in_order(answer)]
    questions, texts = (list(side) for side in zip(*inputs, strict=True))
    answer = client.post("/v1/score", {"text_1": questions, "text_2": texts})
    return [[float(one["score"])] for one in _in_order(answer)]


def times_of(client: Client, task: str, prompt: str, tokens: int) -> tuple[float, float | None]:
    """Return the seconds until the first token of an answer, or until the vector of a prompt, and between tokens.

    Raises RequestError, also for an answer without a token or with an error.
    """
    asked, at = time.monotonic(), list[float]()
    if task != "generate":
        vectors(client, task, [prompt if task == "embed" else [prompt, prompt]])
        return time.monotonic() - asked, None
    for event in client.stream("/v1/completions", {"prompt": prompt, "max_tokens": tokens, **GREEDY}):
        for choice in event.get("choices", ()):
            at.append(time.monotonic())
            if choice.get("finish_reason") == "error":
                raise RequestError("an answer ended with finish_reason `error`")
    if not at:
        raise RequestError("an answer without a token")
    return at[0] - asked, (at[-1] - at[0]) / (len(at) - 1) if len(at) > 1 else None


def _in_order(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(answer["data"], key=lambda one: int(one["index"]))


def alone_and_together(client: Client, task: str, inputs: Sequence[Any]) -> tuple[list[Vector], list[Vector]]:
    """Return the vectors of inputs that are asked for one by one, and in one request. Raises RequestError."""
    return [vectors(client, task, [one])[0] for one in inputs], vectors(client, task, inputs)


def distance(found: Vector, expected: Vector) -> float:
    """Return the distance of two vectors as a share of the length of the second; numbers that are less than 1 are not divided."""
    if len(found) != len(expected):
        return math.inf
    length = math.hypot(*expected)
    off = math.dist(found, expected) / (max(length, 1.0) if len(expected) == 1 else length or 1.0)
    return math.inf if math.isnan(off) else off


def against(found: Sequence[Vector], expected: Sequence[Vector], allowed: float) -> str | None:
    """Return what is wrong with vectors; None where none is further than allowed from the expected one."""
    place, off = max(enumerate(map(distance, found, expected)), key=lambda one: one[1])
    text = f"vector {place + 1} of {len(found)} is off by {off:.3g} of its length; allowed {allowed}"
    return None if off <= allowed else text


def rounding(dtype: str) -> float:
    """Return the largest distance of a vector by a number type's rounding, as a share of its length."""
    return by_type(table("serving")["vectors"]["rounding"], dtype)
