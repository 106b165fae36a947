"""Tokens of each client of a gateway, counted where they are made: in vLLM's server, by wrapping the functions that all of its routes call.

The gateway names the client of a request in a header. Tokens count as the engine hands them over, so those of a stream that its client
leaves count too. The counts of this minute and this day (UTC) are in `FIRSTLIGHT_PROOF_DIR/usage.json`: all processes of the server add to
that file, and a restart loses none.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import importlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

PATH = "/firstlight/usage"
HEADER = b"x-firstlight-client"
FILE = "usage.json"
DELAY_S = 0.5
"""The file is written at most this often."""
ENGINE = "vllm.v1.engine.async_llm"
WINDOWS = {"minute": 60, "day": 86400}
KINDS = ("prompt", "generated")

client: ContextVar[str | None] = ContextVar("client", default=None)
"""Client of the request that the current task answers."""


def add(counts: dict[str, Any], new: dict[str, list[int]], now: float) -> dict[str, Any]:
    """Return counts of the windows of a time (seconds since 1970): earlier windows are gone, new tokens are added.

    A window has its number and, by client, the tokens of prompts and the generated ones.
    """
    found: dict[str, Any] = {}
    for window, seconds in WINDOWS.items():
        number, before = int(now // seconds), counts.get(window, {})
        clients = dict(before["clients"]) if before.get("number") == number else {}
        for name, (prompt, generated) in new.items():
            known = clients.get(name, (0, 0))
            clients[name] = [known[0] + prompt, known[1] + generated]
        found[window] = {"number": number, "clients": clients}
    return found


def lines(counts: dict[str, Any]) -> str:
    """Return counts as the gateway reads them: a window, a client, its tokens of prompts, and its generated ones in each line."""
    return "".join(
        f"{window} {name} {prompt} {generated}\n"
        for window in WINDOWS
        for name, (prompt, generated) in sorted(counts[window]["clients"].items())
    )


class Usage:
    """The counts of this process that are not yet in the file."""

    def __init__(self, folder: str, clock: Callable[[], float] = time.time) -> None:
        self.file = Path(folder) / FILE
        self.clock = clock
        self.new: dict[str, list[int]] = {}
        self.is_due = False
        self.metric = _metric()

    def count(self, name: str, kind: int, tokens: int) -> None:
        """Add tokens of a client, of one of KINDS; called in the server's event loop."""
        if not tokens:
            return
        self.new.setdefault(name, [0, 0])[kind] += tokens
        if self.metric is not None:
            self.metric.labels(name, KINDS[kind]).inc(tokens)
        if not self.is_due:
            self.is_due = True
            asyncio.get_running_loop().call_later(DELAY_S, self.read)

    def read(self) -> str:
        """Add to the file what is new, and return all counts as `lines` does."""
        self.is_due = False
        self.file.touch(mode=0o600)
        with self.file.open("r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                # What follows the document is the rest of an earlier, longer one.
                before = json.JSONDecoder().raw_decode(file.read())[0]
            except ValueError:
                before = {}
            after = add(before, self.new, self.clock())
            file.seek(0)
            file.write(json.dumps(after))
            file.truncate()
            self.new = {}
        return lines(after)

    def watch(self, engine: Any) -> None:
        """Count the tokens of an engine's client class, which is that of vLLM's server."""
        for name in ("generate", "encode"):
            setattr(engine, name, self._counted(getattr(engine, name)))

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            outputs, name = function(*arguments, **named), client.get()
            return outputs if name is None else self._through(outputs, name)

        return call

    async def _through(self, outputs: Any, name: str) -> AsyncIterator[Any]:
        prompt_is_counted = False
        try:
            async for output in outputs:
                if not prompt_is_counted:
                    self.count(name, 0, len(output.prompt_token_ids or ()))
                    prompt_is_counted = True
                # A stream gets what is new, and any other request all at once. Vectors are no list of tokens.
                made = output.outputs if isinstance(output.outputs, list) else ()
                self.count(name, 1, sum(len(one.token_ids) for one in made))
                yield output
        finally:
            # A client that leaves ends its request now, not when memory is collected.
            await outputs.aclose()


@functools.lru_cache(maxsize=1)
def _metric() -> Any:
    """Return the counter in vLLM's own metrics; None without the library."""
    try:
        library = importlib.import_module("prometheus_client")
    except ImportError:
        return None
    return library.Counter("firstlight_client_tokens", "Tokens of a client of the gateway.", ("client", "kind"))


@functools.lru_cache(maxsize=1)
def start() -> Usage | None:
    """Start counting in this server, once; None where its engine or the folder for the counts is missing."""
    folder, engine = os.environ.get("FIRSTLIGHT_PROOF_DIR"), sys.modules.get(ENGINE)
    if not folder or engine is None:
        return None
    try:
        usage = Usage(folder)
        usage.read()
        usage.watch(engine.AsyncLLM)
    except Exception as problem:  # noqa: BLE001  # the server must start whatever happens here
        sys.stderr.write(f"firstlight_attention: tokens of clients are not counted: {problem!r}\n")
        return None
    return usage
