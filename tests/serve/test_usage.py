"""Tokens of a gateway's clients, counted in the server: the middleware with engines that give outputs as vLLM's does."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "provision/phases/serve/plugin"))

from firstlight_attention import access, usage  # type: ignore[import-not-found]  # shipped, not installed here

NOON = 1_800_000_000.0 // 86400 * 86400 + 43200
"""A time at which a minute begins."""


class Engine:
    """Gives a prompt of 7 tokens and 5 generated ones, one at a time; `encode` gives a vector."""

    closed = 0

    async def generate(self, made: int = 5) -> AsyncIterator[Any]:
        try:
            for number in range(made):
                output = SimpleNamespace(token_ids=[number])
                yield SimpleNamespace(prompt_token_ids=[1] * 7, outputs=[output])
        finally:
            Engine.closed += 1

    async def encode(self) -> AsyncIterator[Any]:
        yield SimpleNamespace(prompt_token_ids=[1] * 3, outputs=SimpleNamespace(data=[0.5]))


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Engine]]:
    """The engine of a server that starts: a copy, since it is wrapped."""
    copy = type("AsyncLLM", (Engine,), dict(vars(Engine)))
    monkeypatch.setitem(sys.modules, usage.ENGINE, SimpleNamespace(AsyncLLM=copy))
    monkeypatch.setenv("FIRSTLIGHT_PROOF_DIR", str(tmp_path))
    monkeypatch.setenv("VLLM_API_KEY", "k")
    monkeypatch.setattr(usage.time, "time", lambda: NOON)
    usage.start.cache_clear()
    yield copy
    usage.start.cache_clear()


async def request(guard: Any, path: str, client: str | None = None, key: str = "k") -> tuple[int, str]:
    """Return status and text of the answer to a request."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {key}".encode())]
    headers += [(usage.HEADER, client.encode())] if client else []
    await guard({"type": "http", "method": "GET", "path": path, "headers": headers}, None, send)
    return sent[0]["status"], sent[1]["body"].decode()


def guarded(engine: type[Engine], read: Callable[[Any], Any]) -> Any:
    """Return the middleware in front of an application that reads an engine's outputs."""

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        # As vLLM streams: another task makes the answer.
        await asyncio.create_task(read(engine()))
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b""})

    return access.RequireKey(application)


async def whole(engine: Any) -> None:
    async for _ in engine.generate():
        pass
    async for _ in engine.encode():
        pass


def test_prompts_and_generated_tokens_count_for_the_client_that_the_gateway_names(engine: type[Engine]) -> None:
    async def ask() -> tuple[int, str]:
        guard = guarded(engine, whole)
        await request(guard, "/v1/chat/completions", "app")
        await request(guard, "/v1/chat/completions", "app")
        await request(guard, "/v1/chat/completions", "batch")
        await request(guard, "/v1/chat/completions")
        assert (await request(guard, usage.PATH, key="wrong"))[0] == 401
        return await request(guard, usage.PATH)

    assert asyncio.run(ask()) == (200, "minute app 20 10\nminute batch 10 5\nday app 20 10\nday batch 10 5\n")


def test_a_stream_that_its_client_leaves_counts_and_ends_at_once(engine: type[Engine]) -> None:
    async def leave(one: Any) -> None:
        outputs = one.generate(10**6)
        for _ in range(3):
            await anext(outputs)
        closed = Engine.closed
        await outputs.aclose()
        assert Engine.closed == closed + 1

    async def ask() -> str:
        guard = guarded(engine, leave)
        await request(guard, "/v1/completions", "app")
        return (await request(guard, usage.PATH))[1]

    assert asyncio.run(ask()) == "minute app 7 3\nday app 7 3\n"


def test_counts_outlive_a_restart_and_several_processes_add_to_them(tmp_path: Path) -> None:
    async def count() -> str:
        first, second = (usage.Usage(str(tmp_path), lambda: NOON) for _ in range(2))
        first.count("app", 0, 5)
        second.count("app", 1, 2)
        first.read()
        return str(second.read())

    assert asyncio.run(count()) == "minute app 5 2\nday app 5 2\n"
    assert asyncio.run(count()) == "minute app 10 4\nday app 10 4\n"
    assert (tmp_path / usage.FILE).stat().st_mode & 0o777 == 0o600
    assert usage.Usage(str(tmp_path), lambda: NOON + 60).read() == "day app 10 4\n", "the next minute"
    assert usage.Usage(str(tmp_path), lambda: NOON + 86400).read() == "", "the next day"


def test_counts_reach_the_file_without_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "DELAY_S", 0)

    async def count() -> None:
        written = asyncio.Event()
        counting = usage.Usage(str(tmp_path), lambda: NOON)
        read = counting.read

        def notify() -> None:
            read()
            written.set()

        monkeypatch.setattr(counting, "read", notify)
        counting.count("app", 0, 5)
        await asyncio.wait_for(written.wait(), 60)

    asyncio.run(count())
    assert json.loads((tmp_path / usage.FILE).read_text())["day"]["clients"] == {"app": [5, 0]}


@pytest.mark.parametrize(("left", "known"), [("", ""), ("{", ""), ('{"day": {"number": 0, "clients": {}}} rest"}', "")])
def test_a_file_that_a_killed_process_left_is_read_as_far_as_it_goes(tmp_path: Path, left: str, known: str) -> None:
    (tmp_path / usage.FILE).write_text(left)
    assert usage.Usage(str(tmp_path), lambda: NOON).read() == known


def test_a_server_without_an_engine_or_a_writable_folder_starts_and_counts_nothing(
    engine: type[Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FIRSTLIGHT_PROOF_DIR", str(tmp_path / "missing"))
    assert usage.start() is None
    assert "tokens of clients are not counted" in capsys.readouterr().err
    usage.start.cache_clear()
    monkeypatch.delitem(sys.modules, usage.ENGINE)
    monkeypatch.setenv("FIRSTLIGHT_PROOF_DIR", str(tmp_path))
    assert usage.start() is None
    assert [*tmp_path.iterdir()] == []
    assert asyncio.run(request(guarded(engine, whole), "/v1/completions", "app"))[0] == 200
