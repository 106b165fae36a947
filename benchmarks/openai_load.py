"""Clients of the package `openai` that ask for streams until stdin ends: a program of its own, run by the Python of requirements-openai.txt.

    python openai_load.py < REQUEST      # the first line of stdin is a JSON object, see `Load`

Prints a JSON object for each request when it has ended: `seconds`, `result` and `error`. A request is `lost`
if it failed before its first token, and `broken` if its stream failed or ended early. The package's own retries are switched off.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from dataclasses import dataclass

import openai

TIMEOUT_S = 120.0


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


async def work(client: openai.AsyncOpenAI, load: Load, done: asyncio.Event) -> None:
    """Send requests one after another until `done`."""
    while not done.is_set():
        started = time.time()
        result, error = await stream(client, load)
        row = {"seconds": time.time() - started, "result": result, "error": error}
        sys.stdout.write(json.dumps(row) + "\n")
        await asyncio.sleep(load.pause_s)


async def main() -> None:
    load = Load(**json.loads(sys.stdin.readline()))
    context = ssl.create_default_context(cadata=load.certificate)
    http = openai.DefaultAsyncHttpxClient(verify=context)
    client = openai.AsyncOpenAI(
        base_url=load.base_url, api_key=load.key, max_retries=0, timeout=TIMEOUT_S, http_client=http
    )
    done = asyncio.Event()
    workers = [asyncio.create_task(work(client, load, done)) for _ in range(load.clients)]
    await asyncio.to_thread(sys.stdin.read)
    done.set()
    await asyncio.gather(*workers)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main())
