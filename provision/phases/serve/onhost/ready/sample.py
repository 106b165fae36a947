"""Synthetic requests to the live service, and what its own counters say. A part of ready.pyz."""

from __future__ import annotations

import http.client
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .answer import NotProvenError, Server
from .service import ReadinessRequest

TIMEOUT_S = 60.0
"""Seconds: an engine at work answers in a few; a frozen one never does."""
PROMPT = "One, two, three, four,"
REASONS = 3
COUNTER = re.compile(r"^(vllm:request_success_total|http_requests_total)\{([^}]*)\} (\S+)$", re.MULTILINE)


def sample(request: ReadinessRequest, wanted: dict[str, int]) -> dict[str, Any]:
    """Send requests and return how they ended.

    Args:
        request: The service.
        wanted: `requests`, how many of them at a time (`concurrent`), and `tokens` of each answer.

    Returns:
        `sent`, `failed`, `first_token_s` of the others, a few `reasons`, and the server's counters after them.
    """
    with ThreadPoolExecutor(wanted["concurrent"]) as pool:
        answers = list(pool.map(lambda _: one(request, wanted["tokens"]), range(wanted["requests"])))
    times = [found for found in answers if isinstance(found, float)]
    reasons = [found for found in answers if isinstance(found, str)]
    return {
        "sent": len(answers),
        "failed": len(reasons),
        "first_token_s": times,
        "reasons": list(dict.fromkeys(reasons))[:REASONS],
        "counters": counters(request),
    }


def one(request: ReadinessRequest, tokens: int) -> float | str:
    """Return the seconds until the first token of one request, or why it failed."""
    server = Server(request, timeout_s=TIMEOUT_S)
    body = {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    started, first, count = time.monotonic(), None, 0
    try:
        for event in server.stream_events(server.complete(body)):
            for choice in event.get("choices", ()):
                first = first or time.monotonic()
                count += 1
                if choice.get("finish_reason") == "error":
                    return "an answer ended with finish_reason `error`"
    except (NotProvenError, AttributeError, TypeError) as problem:
        return str(problem)[:200]
    return first - started if first else "an answer without a token"


def counters(request: ReadinessRequest) -> dict[str, float]:
    """Return finished and failed requests since the server started; empty where it reports none."""
    server = Server(request)
    connection = server.connection(TIMEOUT_S)
    try:
        connection.request("GET", "/metrics", headers=server.headers())
        response = connection.getresponse()
        text = response.read().decode(errors="replace") if response.status == 200 else ""
    except (OSError, http.client.HTTPException):
        return {}
    finally:
        connection.close()
    return count(text)


def count(text: str) -> dict[str, float]:
    """Return what the server's metrics say of requests, all labels together."""
    totals = {"finished": 0.0, "failed": 0.0}
    found = COUNTER.findall(text)
    for name, labels, value in found:
        if name == "vllm:request_success_total":
            totals["failed" if 'finished_reason="error"' in labels else "finished"] += float(value)
        elif 'status="5' in labels:
            totals["failed"] += float(value)
    return totals if found else {}


def answered(request: ReadinessRequest, wanted: dict[str, int]) -> str:
    """Return the answer of ready.pyz to the controller."""
    return json.dumps({"state": "sampled", "sample": sample(request, wanted)})
