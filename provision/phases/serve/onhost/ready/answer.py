"""Requests to the service, and the comparison of its answer with the reference. A part of ready.pyz."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from verify.serving.answers import Answer, compare_reference, forced
from verify.serving.client import Client, RefusedError

from .service import ReadinessRequest

ANSWER_TIMEOUT_S = 300.0
"""Seconds: the first answer of a large model may wait for kernels that are compiled on first use."""


def client_of(request: ReadinessRequest, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Client:
    """Return a client of the service, with its key."""
    service = request.service()
    try:
        key = service.api_key()
    except OSError:  # then the service does not start either, and says so
        key = None
    return Client(service.endpoint, timeout_s, key)


def chats(client: Client) -> bool:
    """Return whether the model answers a chat; one without a chat template only completes texts. Raises RequestError."""
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    try:
        client.post("/v1/chat/completions", body)
    except RefusedError:
        return False
    return True


def check_builtin_answer(reference: dict[str, Any], answer: Answer, dtype: str, client: Client) -> str:
    """Return evidence that the answer matches the reference. Raises NotProvenError and RequestError."""

    def rival(tokens: Sequence[int]) -> list[float]:
        return forced(client, [*reference["prompt"], *tokens])[-len(tokens) :]

    return compare_reference(answer, reference, rival, length=len(reference["tokens"]), dtype=dtype)
