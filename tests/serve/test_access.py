"""The API key on every route: the middleware alone, as ASGI servers call it."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "provision/phases/serve/plugin"))

from firstlight_attention.access import RequireKey  # type: ignore[import-not-found]  # shipped, not installed here

KEY = "the-key-itself"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)


def asked(
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | list[tuple[str, str]] | None = None,
    kind: str = "http",
    root: str = "",
) -> list[dict[str, Any]]:
    """Return the status that a client gets; an application that is reached answers 200."""
    sent: list[dict[str, Any]] = []

    async def application(scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "reached", "status": 200})

    async def send(message: Any) -> None:
        sent.append(dict(message))

    pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
    scope = {
        "type": kind,
        "path": path,
        "root_path": root,
        "headers": [(k.encode(), v.encode("latin-1")) for k, v in pairs],
    }
    if kind == "http":
        scope["method"] = method
    asyncio.run(RequireKey(application)(scope, None, send))
    return sent


@given(
    path=st.from_regex(r"/[ -~]{0,20}", fullmatch=True) | st.text(max_size=20),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]),
    value=st.none() | st.text(st.characters(max_codepoint=255), max_size=30),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_every_route_but_health_refuses_a_request_without_the_key(path: str, method: str, value: str | None) -> None:
    headers = {} if value is None else {"authorization": value}
    first = asked(path, method=method, headers=headers)[0]
    assert first["status"] == (200 if path == "/health" else 401)


@pytest.mark.parametrize("path", ["/v1/completions", "/invocations", "/metrics", "/health/", "/healthz", "//health"])
def test_the_key_opens_a_route_and_nothing_else_does(path: str) -> None:
    assert asked(path, headers={"Authorization": f"Bearer {KEY}"})[0]["status"] == 200
    assert asked(path, headers={"authorization": f"bearer {KEY}"})[0]["status"] == 200
    for wrong in (KEY, f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer", "Bearer ", ""):
        start, body = asked(path, headers={"Authorization": wrong})
        assert start["status"] == 401
        assert KEY.encode() not in body["body"]
    both = [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer other")]
    assert asked(path, headers=both)[0]["status"] == 401


@pytest.mark.parametrize("name", ["x/health?", "x/health#", "x/health/..", "localhost"])
def test_a_host_header_opens_no_route(name: str) -> None:
    assert asked("/v1/completions", method="POST", headers={"host": name})[0]["status"] == 401


def test_only_a_preflight_request_of_a_browser_passes_without_the_key() -> None:
    preflight = {"Origin": "https://a", "Access-Control-Request-Method": "POST"}
    assert asked("/v1/completions", method="OPTIONS", headers=preflight)[0]["status"] == 200
    assert asked("/v1/completions", method="POST", headers=preflight)[0]["status"] == 401
    assert asked("/v1/completions", method="OPTIONS", headers={"Origin": "https://a"})[0]["status"] == 401


def test_a_web_socket_needs_the_key_and_a_server_below_a_path_answers_its_health() -> None:
    assert asked("/v1/realtime", kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    assert asked("/health", kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    opened = asked("/v1/realtime", kind="websocket", headers={"authorization": f"Bearer {KEY}"})
    assert opened[0]["type"] == "reached"
    assert asked("/llm/health", root="/llm")[0]["status"] == 200
    assert asked("/llm/health")[0]["status"] == 401


def test_without_a_key_the_server_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY")
    with pytest.raises(RuntimeError, match="VLLM_API_KEY is not set"):
        RequireKey(lambda *_: None)


def test_other_events_than_requests_and_connections_pass() -> None:
    assert asked("", kind="lifespan")[0]["type"] == "reached"
