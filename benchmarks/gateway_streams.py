"""Streams that a gateway on one core holds open, and whether its memory grows.

    python -m benchmarks.gateway_streams [--streams 2000] [--minutes 30]

A real HAProxy with the gateway's files and TLS, on one core, stands before a stub engine that sends a token of each stream every five seconds.
A stream is lost when it ends. Memory and files of HAProxy's process are read each minute. Neither depends on the load of the machine,
so the result is always kept. Aim: 2,000 streams over 30 minutes, none lost, memory at most 2 % above that of the first minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.machine import header, publish, say
from benchmarks.process_tree import descendants
from tests.features.gateway.running import KEY, Site, free_port, running, wait_until
from tests.features.gateway.test_backends import make_certificate

STREAMS, MINUTES = 2000, 30
GROWTH = 1.02
TOKEN_EVERY_S = 5.0
RETRY_AFTER_S = 2.0
MOST_REFUSED = 200
OPENING = 50
"""Streams that are opened at a time."""
ENGINE = "127.0.9.200"
TOKEN = b'data: {"choices": [{"index": 0, "delta": {"content": "a "}}]}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b\r\n"

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
"""A connection; it is closed with its writer."""


@dataclass
class Streams:
    """What came of all streams."""

    tokens: int = 0
    lost: int = 0
    refused: int = 0
    """Answered 503 with Retry-After when they were opened, and opened again, as clients do it."""
    longest_silence_s: float = 0.0


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests of one connection: a stream without end to a chat, an empty document to all else."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            await reader.readexactly(length)
            if b"/chat/" not in head.partition(b"\r\n")[0]:
                writer.write(HEAD % (b"application/json", b"Content-Length: 2\r\n") + b"{}")
                continue
            writer.write(HEAD % (b"text/event-stream", b"Transfer-Encoding: chunked\r\n"))
            while True:
                writer.write(b"%x\r\n%b\r\n" % (len(TOKEN), TOKEN))
                await writer.drain()
                await asyncio.sleep(TOKEN_EVERY_S)
    except (OSError, asyncio.IncompleteReadError):
        writer.close()


async def engine(port: int) -> None:
    """Serve as a stub engine until the process is ended."""
    server = await asyncio.start_server(answer, ENGINE, port, backlog=4096)
    await server.serve_forever()


async def open_stream(site: Site, context: ssl.SSLContext, opening: asyncio.Semaphore, seen: Streams) -> Stream:
    """Open one stream, up to its first token. Raises OSError, RuntimeError and asyncio.IncompleteReadError where there is none."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    async with opening:
        while True:
            reader, writer = await asyncio.open_connection(site.gateway.bind, site.gateway.port, ssl=context)
            writer.write(head.encode() + body)
            status = (await reader.readline()).split()[1]
            if status == b"200":
                await reader.readuntil(b"data: ")
                return reader, writer
            writer.close()
            if status != b"503" or seen.refused >= MOST_REFUSED:
                raise RuntimeError(f"a stream got status {status.decode()}, after {seen.refused} were refused with 503")
            seen.refused += 1
            await asyncio.sleep(RETRY_AFTER_S)


async def read_stream(stream: Stream, seen: Streams) -> None:
    """Count the tokens of a stream until it ends."""
    reader, _ = stream
    last = time.monotonic()
    try:
        while True:
            await reader.readuntil(b"data: ")
            seen.tokens += 1
            now = time.monotonic()
            seen.longest_silence_s, last = max(seen.longest_silence_s, now - last), now
    except (OSError, asyncio.IncompleteReadError):
        seen.lost += 1


def resources(pid: int) -> dict[str, float]:
    """Return memory and open files of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return {"memory_mb": round(int(status["VmRSS"].split()[0]) / 1000, 1), "open_files": files}


async def hold(site: Site, context: ssl.SSLContext, streams: int, minutes: int) -> dict[str, Any]:
    """Hold streams open through a gateway; return what HAProxy needed after each minute, and what was lost."""
    seen, opening = Streams(), asyncio.Semaphore(OPENING)
    opened = await asyncio.gather(*(open_stream(site, context, opening, seen) for _ in range(streams)))
    tasks = [asyncio.create_task(read_stream(stream, seen)) for stream in opened]
    *_, worker = descendants(site.process.pid)
    rows = []
    for minute in range(1, minutes + 1):
        await asyncio.sleep(60)
        rows.append({"minute": minute, "lost": seen.lost, **resources(worker)})
        say(json.dumps(rows[-1]))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _, writer in opened:
        writer.close()
    return {
        "streams": streams,
        "minutes": minutes,
        "refused_at_first": seen.refused,
        "lost": seen.lost,
        "tokens": seen.tokens,
        "longest_silence_s": round(seen.longest_silence_s, 2),
        "growth": round(rows[-1]["memory_mb"] / rows[0]["memory_mb"], 3),
        "each_minute": rows,
    }


def measure(streams: int, minutes: int) -> dict[str, Any]:
    """Start an engine and a gateway on one core, and hold streams open through it."""
    port, cores = free_port(ENGINE), os.sched_getaffinity(0)
    stub = subprocess.Popen([sys.executable, "-m", "benchmarks.gateway_streams", "--engine", str(port)])
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            certificate, key = make_certificate(folder, "gateway")
            context = ssl.create_default_context(cadata=certificate)
            os.sched_setaffinity(0, {min(cores)})  # HAProxy inherits it, and starts as many threads
            with running(folder, {"h1": "m"}, certificate=certificate + key) as site:
                os.sched_setaffinity(0, cores)
                [backend] = site.gateway.backends
                limits = replace(site.gateway.limits, host_requests=streams)
                backend = replace(backend, address=ENGINE, port=port)
                site.reload(replace(site.gateway, backends=(backend,), limits=limits))
                site.wait(backend.name, "UP")
                full = lambda: site.row("model-0", backend.name)["weight"] == "100"  # noqa: E731
                wait_until(full, "the host never gets its whole share")
                return asyncio.run(hold(site, context, streams, minutes))
    finally:
        stub.terminate()
        stub.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--minutes", type=int, default=MINUTES)
    parser.add_argument("--engine", type=int, metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.engine is not None:
        asyncio.run(engine(given.engine))
    result = {**header("gateway-streams"), **measure(given.streams, given.minutes)}
    is_whole = given.streams >= STREAMS and given.minutes >= MINUTES
    met = is_whole and result["lost"] == 0 and result["growth"] <= GROWTH
    result["aim"] = {"streams": STREAMS, "minutes": MINUTES, "lost": 0, "growth": GROWTH, "met": met}
    publish(result, "gateway-streams", always=is_whole)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
