"""Clients of the package `openai` that ask for streams until stdin ends: a program of its own, run by the Python of requirements-openai.txt.

    python openai_load.py < REQUEST      # the first line of stdin is a JSON object, see `Load`

Prints a JSON object for each request when it has ended: `at` (seconds since 1970), `seconds`, `result` and `error`. A request is `lost`
if it failed before its first token, and `broken` if its stream failed or ended early. The package's own retries are switched off.
`kind` is `stream`, or `schema` for an answer that is asked for as a whole and has to fit a JSON schema.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import sys
import time
from dataclasses import dataclass

import openai

TIMEOUT_S = 120.0
SCHEMA = {"enum": ["yes", "no", None]}


@dataclass(frozen=True)
class Load:
    """What is sent, and where."""

    base_url: str
    key: str
    certificate: str
    """PEM text of the certificate that is trusted."""
    model: str
    clients: int
    tokens: int
    pause_s: float
    """Seconds of each client between the end of a stream and its next request."""
    schema_share: float = 0.0
    """Share of requests, drawn one by one, that ask for an answer by a schema."""


async def stream(client: openai.AsyncOpenAI, load: Load) -> tuple[str, str]:
    """Ask for one stream; return the result, and the error."""
    count = 0
    try:
        answer = await client.completions.create(
            model=load.model,
            prompt="One, two, three,",
            max_tokens=load.tokens,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        reason = None
        async for part in answer:
            for choice in part.choices:
                count += 1
                reason = choice.finish_reason or reason
    except (openai.OpenAIError, OSError) as error:
        return ("broken" if count else "lost"), f"{type(error).__name__}: {error}"[:200]
    return ("ok", "") if reason == "length" else ("broken", f"ended after {count} parts with {reason}")


async def choose(client: openai.AsyncOpenAI, load: Load) -> tuple[str, str]:
    """Ask for one answer that fits the schema; return the result, and the error."""
    try:
        answer = await client.chat.completions.create(
            model=load.model,
            messages=[{"role": "user", "content": "Is a whale a fish?"}],
            max_tokens=16,
            temperature=0,
            response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
        )
    except (openai.OpenAIError, OSError) as error:
        return "lost", f"{type(error).__name__}: {error}"[:200]
    text = answer.choices[0].message.content or ""
    return ("ok", "") if text in map(json.dumps, SCHEMA["enum"]) else ("broken", f"the answer is {text!r}")


async def work(client: openai.AsyncOpenAI, load: Load, draws: random.Random, done: asyncio.Event) -> None:
    """Send requests one after another until `done`."""
    while not done.is_set():
        started, kind = time.time(), "schema" if draws.random() < load.schema_share else "stream"
        result, error = await (choose if kind == "schema" else stream)(client, load)
        row = {"at": time.time(), "seconds": time.time() - started, "kind": kind, "result": result, "error": error}
        sys.stdout.write(json.dumps(row) + "\n")
        await asyncio.sleep(load.pause_s)


async def main() -> None:
    load = Load(**json.loads(sys.stdin.readline()))
    context = ssl.create_default_context(cadata=load.certificate)
    http = openai.DefaultAsyncHttpxClient(verify=context)
    client = openai.AsyncOpenAI(
        base_url=load.base_url, api_key=load.key, max_retries=0, timeout=TIMEOUT_S, http_client=http
    )
    done, draws = asyncio.Event(), random.Random(0)
    workers = [asyncio.create_task(work(client, load, draws, done)) for _ in range(load.clients)]
    await asyncio.to_thread(sys.stdin.read)
    done.set()
    await asyncio.gather(*workers)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main())
