"""Greedy answers to fixed texts, which a rollout compares between the hosts of two releases. A part of ready.pyz."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .answer import NotProvenError, Server
from .service import ReadinessRequest

TIMEOUT_S = 60.0
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

    Args:
        tokens: Length of each answer.
        concurrent: How many are asked for at a time.
    """
    with ThreadPoolExecutor(concurrent) as pool:
        return list(pool.map(lambda prompt: one(Server(request, timeout_s=TIMEOUT_S), prompt, tokens), PROMPTS))


def one(server: Server, prompt: str, tokens: int) -> dict[str, Any] | str:
    """Return the `tokens` of a greedy answer, their `logprobs`, and for each the token in second place and how far it is behind.

    Without an answer the reason is returned.
    """
    body = {
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "seed": 0,
        "ignore_eos": True,
        "logprobs": 2,
        "return_tokens_as_token_ids": True,
    }
    try:
        found = json.loads(server.complete(body).read())["choices"][0]["logprobs"]
        ids, logprobs = [_id(token) for token in found["tokens"]], [float(value) for value in found["token_logprobs"]]
        seconds = [
            max((float(value), _id(name)) for name, value in top.items() if _id(name) != token)
            for token, top in zip(ids, found["top_logprobs"], strict=True)
        ]
    except (NotProvenError, OSError) as problem:
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
    return " ".join((f"{text.partition(': ')[0]}: {message[1]}" if message else text).split())[:LONGEST_REASON]


def _id(token: str) -> int:
    return int(token.removeprefix("token_id:"))
