"""Comparison of the server's answer with the reference. A part of ready.pyz."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .service import ReadinessRequest

ANSWER_TIMEOUT_S = 300.0
"""Seconds: the first answer of a large model may wait for kernels that are compiled on first use."""
ROUNDING = {"float32": 0.001, "float16": 0.15, "bfloat16": 0.3}
"""Largest effect of a number type on the distance of two logits of the built-in model, whose logits reach 9.

The values exceed measured ones for eager and fused kernels on CPUs (0.09 in float16; a logit moves by 0.23 in
bfloat16). Two tokens with a smaller distance are a near tie, and log probabilities decide.
"""


class NotProvenError(Exception):
    """The service answers, but not correctly."""


class RefusedError(NotProvenError):
    """The server answers with an error."""


class Server:
    """HTTP client of the service."""

    def __init__(self, request: ReadinessRequest, *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.request = request
        self.timeout_s = timeout_s
        # Use loopback for a server that listens on every address.
        self.host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(request.host, request.host)  # noqa: S104
        self.key = api_key(Path(request.prefix) / "etc/service.env")
        self.broken: str | None = None
        """Why the current request was cancelled."""
        self._socket: socket.socket | None = None

    def break_off(self, reason: str) -> None:
        """Cancel the wait for an answer, from another thread."""
        self.broken = reason
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def connection(self, timeout_s: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.request.port, timeout=timeout_s)

    def get(self, path: str, timeout_s: float) -> str | None:
        """Return the text of a route; None where it cannot be had."""
        connection = self.connection(timeout_s)
        try:
            connection.request("GET", path, headers=self.headers())
            response = connection.getresponse()
            return response.read().decode(errors="replace") if response.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def healthy(self) -> bool:
        return self.get("/health", 5.0) is not None

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def tokens_of(self, text: str) -> list[int]:
        """Return the token IDs of a prompt, including those that the model's tokenizer puts before it."""
        return [int(token) for token in json.loads(self.ask("/tokenize", {"prompt": text}).read())["tokens"]]

    def ask(self, path: str, body: dict[str, Any]) -> http.client.HTTPResponse:
        """Post a request about the served model.

        Raises:
            NotProvenError: The server did not answer.
            RefusedError: It answered with an error.
        """
        headers = {"Content-Type": "application/json", **self.headers()}
        connection = self.connection(self.timeout_s)
        try:
            connection.request("POST", path, json.dumps({"model": self.request.served_name, **body}), headers)
            self._socket = connection.sock
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as problem:
            raise NotProvenError(self.broken or f"the server did not answer {path}: {problem!r}") from problem
        if response.status != 200:
            text = response.read(600).decode(errors="replace").strip()
            raise RefusedError(f"the server answered {response.status} to {path}: {text}")
        return response

    def chats(self) -> bool:
        """Return whether the model answers a chat; one without a chat template only completes texts.

        Raises:
            NotProvenError: The server did not answer.
        """
        try:
            self.ask(
                "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
            ).read()
        except RefusedError:
            return False
        return True

    def greedy(self, prompt: list[int] | str, length: int) -> tuple[list[int], list[float], float]:
        """Return greedy token IDs, their log probabilities, and the monotonic time of the first one.

        The IDs come from `logprobs`, which every release since 0.6 supports.
        """
        response = self.ask(
            "/v1/completions",
            {
                "prompt": prompt,
                "max_tokens": length,
                "temperature": 0,
                "ignore_eos": True,
                "logprobs": 1,
                "return_tokens_as_token_ids": True,
                "stream": True,
            },
        )
        tokens: list[int] = []
        logprobs: list[float] = []
        first = 0.0
        for event in self.stream_events(response):
            for choice in event.get("choices", ()):
                found = choice.get("logprobs") or {}
                tokens += [int(token.removeprefix("token_id:")) for token in found.get("tokens", ())]
                logprobs += found.get("token_logprobs", ())
                first = first or time.monotonic()
        return tokens, logprobs, first

    def stream_events(self, response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
        """Yield the parts of an answer as they arrive.

        Raises:
            NotProvenError: The answer ended early.
        """
        try:
            for raw in response:
                line = raw.decode(errors="replace").strip()
                if line.startswith("data:") and line != "data: [DONE]":
                    event = json.loads(line[5:])
                    if "error" in event:
                        raise NotProvenError(f"the server broke off its answer: {event['error']}")
                    yield event
        except (OSError, http.client.HTTPException, ValueError) as problem:
            raise NotProvenError(self.broken or f"the server broke off its answer: {problem!r}") from problem
        if self.broken:
            raise NotProvenError(self.broken)

    def forced(self, prompt: list[int] | str) -> list[tuple[int, float]]:
        """Return each token of a prompt except the first, with the log probability that the model assigns to it."""
        body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        answer = json.loads(self.ask("/v1/completions", body).read())
        entries = answer["choices"][0]["prompt_logprobs"][1:]
        # The prompt's token comes first; a release that adds the most likely token puts it second.
        return [
            (int(token), float(value["logprob"])) for token, value in (next(iter(entry.items())) for entry in entries)
        ]


def api_key(path: Path) -> str | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    values = [line.partition("=")[2].strip().strip("\"'") for line in lines if line.startswith("VLLM_API_KEY=")]
    return values[-1] if values else None


def check_builtin_answer(
    reference: dict[str, Any], tokens: list[int], logprobs: list[float], dtype: str, server: Server
) -> list[str]:
    """Return evidence that the answer matches the reference.

    Raises:
        NotProvenError: The answer does not match.
    """
    expected, rounding = reference["tokens"], ROUNDING.get(dtype, ROUNDING["float32"])
    if tokens == expected:
        worst = _largest_difference(logprobs, reference["logprobs"])
        text = f"{len(tokens)} greedy tokens equal those of transformers in float32"
        # A log probability depends on two logits: its own and the largest one.
        if worst > 2 * rounding:
            raise NotProvenError(
                f"{text}, but log probabilities differ by up to {worst:.2f}; {dtype} rounds by at most {rounding}"
            )
        return [f"{text}; log probabilities differ by at most {worst:.3f}"]
    if len(tokens) != len(expected):
        raise NotProvenError(f"the server answered {len(tokens)} tokens instead of {len(expected)}")
    place = next(number for number, pair in enumerate(zip(tokens, expected, strict=True)) if pair[0] != pair[1])
    gap = reference["gaps"][place]
    text = f"token {place + 1} of {len(expected)} is {tokens[place]}, transformers in float32 says {expected[place]}"
    if gap >= rounding:
        raise NotProvenError(f"{text}, whose logit leads by {gap:.2f}; {dtype} rounds by at most {rounding}")
    if tokens[place] != reference["runners_up"][place]:
        raise NotProvenError(f"{text}, and after that {reference['runners_up'][place]}")
    forced = server.forced(reference["prompt"] + expected)[-len(expected) :]
    worst = _largest_difference([value for _, value in forced], reference["logprobs"])
    if worst > rounding:
        raise NotProvenError(
            f"{text}, and log probabilities differ by up to {worst:.2f}; {dtype} rounds by at most {rounding}"
        )
    return [f"{text}: a near tie (gap {gap:.3f}); teacher-forced log probabilities differ by at most {worst:.3f}"]


def _largest_difference(found: list[float], expected: list[float]) -> float:
    """Return the largest difference of two lists of one length; a value that is no number differs by infinity."""
    differences = [abs(here - there) for here, there in zip(found, expected, strict=True)]
    return max(math.inf if math.isnan(difference) else difference for difference in differences)
