"""Requests to the service, and the comparison of its answer with the reference. A part of ready.pyz."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from verify.serving import answers
from verify.serving.client import Client, RefusedError, RequestError

from .service import ReadinessRequest

ANSWER_TIMEOUT_S = 300.0
"""Seconds: the first answer of a large model may wait for kernels that are compiled on first use."""


class Server:
    """The service, asked for one model with its key."""

    def __init__(self, request: ReadinessRequest, *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.request = request
        service = request.service()
        self.client = Client(service.endpoint, timeout_s)
        try:
            self.key = service.api_key()
        except OSError:  # then the service does not start either, and says so
            self.key = None

    def text(self, path: str) -> str:
        """Return the text of a route; empty where it cannot be had."""
        try:
            return self.client.text(path, self.key)
        except RequestError:
            return ""

    def tokens_of(self, text: str) -> list[int]:
        """Return the token IDs of a prompt, including those that the model's tokenizer puts before it. Raises RequestError."""
        return [int(token) for token in self.client.post("/tokenize", {"prompt": text}, self.key)["tokens"]]

    def chats(self) -> bool:
        """Return whether the model answers a chat; one without a chat template only completes texts.

        Raises:
            RequestError: The server did not answer.
        """
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
        try:
            self.client.post("/v1/chat/completions", body, self.key)
        except RefusedError:
            return False
        return True

    def greedy(self, prompt: Sequence[int] | str, length: int) -> answers.Answer:
        """Return the greedy answer to a prompt. Raises RequestError."""
        return answers.greedy(self.client, prompt, length, self.key)

    def forced(self, prompt: Sequence[int] | str) -> list[float]:
        """Return the log probability of each token of a prompt except the first. Raises RequestError."""
        return answers.forced(self.client, prompt, self.key)


def check_builtin_answer(reference: dict[str, Any], answer: answers.Answer, dtype: str, server: Server) -> str:
    """Return evidence that the answer matches the reference. Raises NotProvenError and RequestError."""

    def rival(tokens: Sequence[int]) -> list[float]:
        return server.forced([*reference["prompt"], *tokens])[-len(tokens) :]

    return answers.compare_reference(answer, reference, rival, length=len(reference["tokens"]), dtype=dtype)
