"""Synthetic requests to the live service, greedy answers that a rollout compares, and what its own counters say. A part of ready.pyz."""

from __future__ import annotations

import math
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from verify.serving.answers import GREEDY
from verify.serving.client import Client, RequestError
from verify.serving.samples import samples, totals
from verify.serving.vectors import times_of

from .log import stream_errors
from .service import ReadinessRequest

TIMEOUT_S = 60.0
"""Seconds: an engine at work answers in a few; a frozen one never does."""
PROMPT = "One, two, three, four,"
ASKED: dict[str, Any] = {"prompt": PROMPT, "tokens": 16}
"""The request by which `verify` compares a service with its last green run."""
PACE_REQUESTS = 3
PACE_S = 5.0
"""Seconds after which no further one is asked: a large model on a CPU."""
REASONS = 3
COUNTERS = ("vllm:request_success_total", "http_requests_total")
DRAFTS = ("vllm:spec_decode_num_draft_tokens_total", "vllm:spec_decode_num_accepted_tokens_total")
"""Metrics of speculative decoding (names of 0.10.0 to 0.32.0)."""
LONGEST_REASON = 200
PROMPTS = (
    "One, two, three, four,",
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    '{"name": "Ada", "born": 1815, "languages": [',
    "Die Sonne geht im Osten auf und im Westen",
    "Q: What is 17 times 23?\nA: Let us compute it step by step.",
    "SELECT host, count(*) FROM requests WHERE status >= 500 GROUP BY",
    "Light from the star had travelled for 8,611 years before it fell on a mirror and was counted, photon by photon. "
    * 8,
)
"""Texts of several kinds and lengths: another kernel may be used for a long prompt than for a short one."""


def replay(request: ReadinessRequest, tokens: int, concurrent: int) -> list[dict[str, Any] | str]:
    """Return the greedy answer to each text, or why there is none: a server refuses a text that is too long for it.

    A model that makes vectors has none: the proof of each release compares its vectors.
    """
    if request.task != "generate":
        return []
    with ThreadPoolExecutor(concurrent) as pool:
        return list(pool.map(lambda text: greedy_answer(request.client(timeout_s=TIMEOUT_S), text, tokens), PROMPTS))


def greedy_answer(client: Client, prompt: str, tokens: int) -> dict[str, Any] | str:
    """Return a greedy answer with each token in second place and how far it is behind, or why there is none."""
    asked = {"prompt": prompt, "max_tokens": tokens, "seed": 0, **GREEDY}
    body = {**asked, "logprobs": 2, "return_tokens_as_token_ids": True}
    try:
        found = client.post("/v1/completions", body)["choices"][0]["logprobs"]
        ids, logprobs = [_id(token) for token in found["tokens"]], [float(value) for value in found["token_logprobs"]]
        seconds = [
            max((float(value), _id(name)) for name, value in top.items() if _id(name) != token)
            for token, top in zip(ids, found["top_logprobs"], strict=True)
        ]
    except RequestError as problem:
        return _reason(str(problem))
    except (ValueError, LookupError, TypeError, AttributeError):
        return "the answer has no log probabilities of its tokens"
    return {
        "tokens": ids,
        "logprobs": logprobs,
        "runners_up": [token for _, token in seconds],
        "leads": [here - value for here, (value, _) in zip(logprobs, seconds, strict=True)],
    }


def _reason(text: str) -> str:
    """Return an error in one line, with the message of the server instead of its whole document."""
    message = re.search(r'"message":\s*"((?:[^"\\]|\\.)+)', text)
    return " ".join((f"{text.partition(': {')[0]}: {message[1]}" if message else text).split())[:LONGEST_REASON]


def _id(token: str) -> int:
    return int(token.removeprefix("token_id:"))


def sample(request: ReadinessRequest, wanted: dict[str, Any]) -> dict[str, Any]:
    """Send requests and return how they ended.

    Args:
        wanted: `requests`, how many of them at a time (`concurrent`), and `tokens` of each answer; with `seconds`, the time after
            which none is begun any more; with `replay`, tokens of the answers that are returned whole; with `since`, `until` of
            the last answer.

    Returns:
        `sent`, `failed`, `first_token_s` and `inter_token_s` of the others, a few `reasons`, the `answers` of a replay with
        None for those that are missing, by the number of their text why (`left_out`), the server's counters before and after them,
        and the `stream_errors` in its log until the time `until`.
    """
    since = wanted.get("since", time.time())
    # First, so that the counters do not show them as requests of clients.
    length = wanted.get("replay", 0)
    whole = replay(request, length, wanted["concurrent"]) if length else []
    before = count(metrics(request))
    until = time.monotonic() + wanted.get("seconds", math.inf)

    def ask(number: int) -> tuple[float, float | None] | str | None:
        is_late = number >= wanted["concurrent"] and time.monotonic() >= until
        return None if is_late else one(request, wanted["tokens"])

    with ThreadPoolExecutor(wanted["concurrent"]) as pool:
        asked = list(pool.map(ask, range(wanted["requests"])))
    answers = [found for found in asked if found is not None]
    times = [found for found in answers if isinstance(found, tuple)]
    reasons = [found for found in answers if isinstance(found, str)]
    now = time.time()
    return {
        "sent": len(answers),
        "failed": len(reasons),
        "first_token_s": [first for first, _ in times],
        "inter_token_s": [between for _, between in times if between is not None],
        "reasons": list(dict.fromkeys(reasons))[:REASONS],
        "answers": [found if isinstance(found, dict) else None for found in whole],
        "left_out": {str(number): found for number, found in enumerate(whole, start=1) if isinstance(found, str)},
        "counters_before": before,
        "counters": count(metrics(request)),
        "stream_errors": stream_errors(request, since, now),
        "until": now,
    }


def one(request: ReadinessRequest, tokens: int) -> tuple[float, float | None] | str:
    """Return the seconds until the first token, or until the vector, of one request, and between tokens, or why it failed."""
    try:
        return times_of(request.client(timeout_s=TIMEOUT_S), request.task, PROMPT, tokens)
    except (RequestError, AttributeError, TypeError, LookupError, ValueError) as problem:
        return str(problem)[:200]


def pace(request: ReadinessRequest) -> dict[str, Any]:
    """Return a request, how often it was asked, and the fastest times of its tokens; empty where one failed."""
    times: list[tuple[float, float | None]] = []
    began = time.monotonic()
    while len(times) < PACE_REQUESTS and (not times or time.monotonic() - began < PACE_S):
        found = one(request, ASKED["tokens"])
        if isinstance(found, str):
            return {}
        times.append(found)
    between = [seconds for _, seconds in times if seconds is not None]
    figures = {"first_token_s": min(first for first, _ in times), "inter_token_s": min(between, default=None)}
    return {**ASKED, "requests": len(times), **figures}


def metrics(request: ReadinessRequest) -> str:
    """Return the text of the server's metrics; empty where they cannot be read."""
    try:
        return request.client(timeout_s=TIMEOUT_S).text("/metrics")
    except RequestError:
        return ""


def count(text: str) -> dict[str, float]:
    """Return finished and failed requests since the server started, by its metrics; empty where it reports none.

    A request that the engine ended with an error is answered 5xx too, unless it was a stream: the larger count is taken, not both.
    """
    finished = errors = answered_5xx = 0.0
    found = [sample for sample in samples(text) if sample[0] in COUNTERS]
    for name, labels, value in found:
        if name == "http_requests_total":
            answered_5xx += value if 'status="5' in labels else 0.0
        elif 'finished_reason="error"' in labels:
            errors += value
        else:
            finished += value
    return {"finished": finished, "failed": max(errors, answered_5xx)} if found else {}


def acceptance(text: str) -> list[str]:
    """Return what the server's metrics say of speculative decoding; empty without it."""
    drafted, accepted = totals(text, DRAFTS).values()
    share = f"{accepted / drafted:.0%} of {drafted:.0f} drafted tokens" if drafted else ""
    return [f"speculative decoding: {share} accepted since the server started"] if drafted else []
