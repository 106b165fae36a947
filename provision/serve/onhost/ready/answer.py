"""Whether the server's answer is the right one. A part of ready.pyz."""

from __future__ import annotations

import http.client
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .service import Request

ANSWER_TIMEOUT_S = 300.0
"""The first answer of a large model may wait for kernels that are compiled on first use."""
ROUNDING = {"float32": 0.001, "float16": 0.05, "bfloat16": 0.3}
"""How far a number type may move the distance of two logits of the built-in model, whose logits reach 9: twice what was
seen for eager and fused kernels on CPUs. Below it two tokens are a near tie, and log probabilities decide."""
DRIFT = 0.1
"""Largest mean difference, in nats, of a model's log probabilities to those of its last green run."""
FIXED_TEXT = (
    "The telescope saw its first light on a clear night in March. Light from the star had travelled for 8,611 years, at"
    " 299,792,458 metres a second, before it fell on a mirror of 3.6 metres and was counted, photon by photon."
)
CLAMPED_LOGPROB = -9999.0
"""What vLLM writes for minus infinity, which JSON cannot hold."""


class NotProvenError(Exception):
    """The service answers, but not as it must."""


class Server:
    """The service as a client sees it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        # A server that listens on every address is asked on the loopback.
        self.host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(request.host, request.host)  # noqa: S104
        self.key = api_key(Path(request.prefix) / "etc/service.env")

    def connection(self, timeout_s: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.request.port, timeout=timeout_s)

    def healthy(self) -> bool:
        connection = self.connection(5.0)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def complete(self, body: dict[str, Any]) -> http.client.HTTPResponse:
        """Ask for a completion; raises NotProvenError when the answer is no success."""
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        connection = self.connection(ANSWER_TIMEOUT_S)
        try:
            connection.request(
                "POST", "/v1/completions", json.dumps({"model": self.request.served_name, **body}), headers
            )
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as problem:
            raise NotProvenError(f"the server did not answer /v1/completions: {problem!r}") from problem
        if response.status != 200:
            said = response.read(600).decode(errors="replace").strip()
            raise NotProvenError(f"the server answered {response.status} to /v1/completions: {said}")
        return response

    def greedy(self, prompt: list[int], length: int) -> tuple[list[int], list[float], float]:
        """Greedy token ids, their log probabilities, and the time on the monotonic clock at which the first came.

        Token ids by way of `logprobs`: the spelling that every release since 0.6 understands.
        """
        response = self.complete(
            {
                "prompt": prompt,
                "max_tokens": length,
                "temperature": 0,
                "ignore_eos": True,
                "logprobs": 1,
                "return_tokens_as_token_ids": True,
                "stream": True,
            }
        )
        tokens: list[int] = []
        logprobs: list[float] = []
        first = 0.0
        for event in stream_events(response):
            for choice in event.get("choices", ()):
                found = choice.get("logprobs") or {}
                tokens += [int(token.removeprefix("token_id:")) for token in found.get("tokens", ())]
                logprobs += found.get("token_logprobs", ())
                first = first or time.monotonic()
        return tokens, logprobs, first

    def forced(self, prompt: list[int] | str) -> list[tuple[int, float]]:
        """Each token of a prompt but the first, with the log probability that the model gives it there."""
        body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        answer = json.loads(self.complete(body).read())
        entries = answer["choices"][0]["prompt_logprobs"][1:]
        # The prompt's own token stands first; a release that adds the most likely one puts it behind.
        return [
            (int(token), float(value["logprob"])) for token, value in (next(iter(entry.items())) for entry in entries)
        ]


def stream_events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    try:
        for raw in response:
            line = raw.decode(errors="replace").strip()
            if line.startswith("data:") and line != "data: [DONE]":
                event = json.loads(line[5:])
                if "error" in event:
                    raise NotProvenError(f"the server broke off its answer: {event['error']}")
                yield event
    except (OSError, http.client.HTTPException, ValueError) as problem:
        raise NotProvenError(f"the server broke off its answer: {problem!r}") from problem


def api_key(path: Path) -> str | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    values = [line.partition("=")[2].strip().strip("\"'") for line in lines if line.startswith("VLLM_API_KEY=")]
    return values[-1] if values else None


def judge_builtin(
    reference: dict[str, Any], tokens: list[int], logprobs: list[float], dtype: str, server: Server
) -> list[str]:
    """Evidence that the answer is the reference's; raises NotProvenError when it is not."""
    expected = reference["tokens"]
    if tokens == expected:
        worst = max(abs(here - there) for here, there in zip(logprobs, reference["logprobs"], strict=True))
        return [
            f"{len(tokens)} greedy tokens equal those of transformers in float32; log probabilities differ by at most {worst:.3f}"
        ]
    if len(tokens) != len(expected):
        raise NotProvenError(f"the server answered {len(tokens)} tokens instead of {len(expected)}")
    place = next(number for number, pair in enumerate(zip(tokens, expected, strict=True)) if pair[0] != pair[1])
    gap, rounding = reference["gaps"][place], ROUNDING.get(dtype, ROUNDING["float32"])
    said = f"token {place + 1} of {len(expected)} is {tokens[place]}, transformers in float32 says {expected[place]}"
    if gap >= rounding:
        raise NotProvenError(f"{said}, whose logit leads by {gap:.2f}; {dtype} rounds by at most {rounding}")
    if tokens[place] != reference["runners_up"][place]:
        raise NotProvenError(f"{said}, and after that {reference['runners_up'][place]}")
    forced = server.forced(reference["prompt"] + expected)[-len(expected) :]
    worst = max(abs(value - known) for (_, value), known in zip(forced, reference["logprobs"], strict=True))
    if worst > rounding:
        raise NotProvenError(
            f"{said}, and log probabilities differ by up to {worst:.2f}; {dtype} rounds by at most {rounding}"
        )
    return [f"{said}: a near tie (gap {gap:.3f}); teacher-forced log probabilities differ by at most {worst:.3f}"]


def judge_files(request: Request, dtype: str, server: Server) -> list[str]:
    """Evidence that a model of the user's computes, and as it did when it was last green."""
    forced = server.forced(FIXED_TEXT)
    values = [value for _, value in forced]
    wrong = [value for value in values if not math.isfinite(value) or value <= CLAMPED_LOGPROB]
    if wrong or not values:
        raise NotProvenError(f"{len(wrong)} of {len(values)} log probabilities of a fixed text are not finite")
    key = {"model": fingerprint(Path(request.model_folder)), "dtype": dtype, "tokens": [token for token, _ in forced]}
    path = Path(request.prefix) / "verify" / f"logprobs-{Path(request.model_folder).name}.json"
    evidence = [
        f"log probabilities of {len(values)} tokens of a fixed text are finite, mean {sum(values) / len(values):.3f}"
    ]
    try:
        last = json.loads(path.read_text())
    except (OSError, ValueError):
        last = {}
    if all(last.get(name) == value for name, value in key.items()):
        drift = sum(abs(here - there) for here, there in zip(values, last["logprobs"], strict=True)) / len(values)
        if drift > DRIFT:
            raise NotProvenError(
                f"log probabilities of a fixed text differ from the last green run by {drift:.3f} on average, allowed {DRIFT}"
            )
        evidence.append(f"they differ from the last green run ({last['at']}) by {drift:.4f} on average")
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({**key, "at": at, "logprobs": values}) + "\n")
    temporary.replace(path)
    return evidence


def fingerprint(folder: Path) -> list[list[Any]]:
    """Names and sizes of a model's files: another model under the same name is compared with nothing."""
    return sorted([path.name, path.stat().st_size] for path in folder.iterdir() if path.is_file())
