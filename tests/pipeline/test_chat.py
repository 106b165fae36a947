"""`chat`: which host is meant, and answers of a stand-in server, through a real session and the real program."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from provision.core.errors import RemoteCommandError, ServeError, UsageError
from provision.core.models.facts import HostFacts, Installed
from provision.core.models.inventory import GATEWAY, Connection
from provision.core.models.invocation import Invocation
from provision.fleet.ssh import open_session
from provision.fleet.ssh.local import LocalSession
from provision.pipeline import CommandRequest, chat
from tests.pipeline.local_context import local_host, own_paths
from tests.report.sample import facts

TYPED = Invocation(inventory="site")
KEY = "sk-of-the-test"
TEMPLATE = "you must provide a chat template if the tokenizer does not define one"


class Handler(BaseHTTPRequestHandler):
    """vLLM's routes: the answer to the third message breaks off, and a model named `plain` has no chat template."""

    def do_GET(self) -> None:
        self.reply(json.dumps({"data": [{"id": "first"}]}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self.reply('{"error": "Unauthorized"}', 401)
        elif self.path == "/v1/completions":
            self.stream({"text": part} for part in ("of ", asked["prompt"]))
        elif asked["model"] == "thinks":
            parts = {"reasoning": "Hm"}, {"reasoning_content": ", so"}, {"content": "Hi"}
            cut = [] if asked["max_tokens"] > 8 else [{"delta": {"content": None}, "finish_reason": "length"}]
            self.stream([*({"delta": delta} for delta in parts[: 2 if cut else 3]), *cut])
        elif asked["model"] == "plain":
            self.reply(json.dumps({"error": {"message": TEMPLATE}}), 400)
        else:
            said = [message["content"] for message in asked["messages"]]
            self.stream({"delta": {"content": part}} for part in (asked["model"], ": ", " / ".join(said)))

    def stream(self, choices: Any) -> None:
        lines = [f"data: {json.dumps({'choices': [choice]})}\n\n" for choice in choices]
        self.reply("".join(lines) + "data: [DONE]\n\n")

    def reply(self, text: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def endpoint(folder: Path, port: int, service: str | None = "active", **readiness: Any) -> dict[str, Any]:
    (folder / "etc").mkdir()
    (folder / "etc/service.env").write_text(f"OTHER=1\nVLLM_API_KEY={KEY}\n")
    state = {"readiness": {"host": "127.0.0.1", "port": port, "served_name": "m", **readiness}}
    known = facts("a", installed=Installed(prefix=str(folder), state=state, service=service))
    return chat.endpoint_at(local_host(), known, own_paths(folder), TYPED, is_named=True)[0]


def converse(found: dict[str, Any], *prompts: str, max_tokens: int = 8) -> None:
    with closing(open_session(local_host())) as session, closing(chat.start(session, sys.executable)) as channel:
        channel.writeline(json.dumps(found))
        chat._converse(channel, "a", prompts, max_tokens, TYPED)


def test_each_prompt_follows_what_was_said(port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converse(endpoint(tmp_path, port), "Hello", "  ", "Again")
    assert capsys.readouterr().out == "m: Hello\nm: Hello / m: Hello / Again\n"


def test_a_model_without_a_chat_template_completes_the_prompt(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    converse(endpoint(tmp_path, port, served_name="plain"), "Hello")
    assert capsys.readouterr().out == "of Hello\n"


def test_what_a_model_thinks_is_shown_apart_from_its_answer(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    converse(endpoint(tmp_path, port, served_name="thinks"), "Hello", max_tokens=9)
    assert capsys.readouterr() == ("Hi\n", "[thinks: Hm, so]\n")


def test_an_answer_that_was_cut_says_so(port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converse(endpoint(tmp_path, port, served_name="thinks"), "Hello")
    assert capsys.readouterr() == ("\n", "[thinks: Hm, so]\n[cut: after 8 tokens, --max-tokens allows more]\n")


def test_a_gateway_is_asked_for_its_first_model(port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = local_host(
        "g", GATEWAY, gateway_bind="127.0.0.1", gateway_port=port, gateway_tls=False, prefix=str(tmp_path)
    )
    found, _ = chat.endpoint_at(there, facts("g"), own_paths(tmp_path), TYPED, is_named=True)
    keys = Path(found["key_file"])
    keys.parent.mkdir(parents=True)
    keys.write_text(f"{KEY} default\nsk-other team\n")
    converse(found, "Hello")
    assert capsys.readouterr().out == "first: Hello\n"


@pytest.mark.parametrize(("words", "port"), [((None, "Hello"), 8443), (("Hello", None), 8443), (("g", "Hello"), 8000)])
def test_a_gateway_that_also_serves_is_asked_for_itself_only_by_its_name(
    words: tuple[str | None, str | None], port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = local_host("g", GATEWAY, "gpus", gateway_port=8443, prefix=str(tmp_path))
    state = {"readiness": {"host": "127.0.0.1", "port": 8000, "served_name": "m"}}
    known = facts("g", installed=Installed(prefix=str(tmp_path), state=state, service="active"))
    result = SimpleNamespace(facts={"g": known}, install_paths={"g": own_paths(tmp_path)})
    channel = Mock()
    monkeypatch.setattr(chat, "read_inventory", lambda request: SimpleNamespace(hosts=(there,)))
    monkeypatch.setattr(chat, "execute", lambda *_: SimpleNamespace(result=result))
    monkeypatch.setattr(chat, "start", lambda *_, **__: channel)
    monkeypatch.setattr(chat, "_converse", lambda *_: None)
    request = CommandRequest("chat", Path("site"), None, {}, tmp_path / "logs", invocation=TYPED)
    chat.chat(request, *words, lambda: None, max_tokens=8)
    asked = json.loads(channel.writeline.call_args.args[0])
    assert f":{port}/" in asked["url"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"url": "http://127.0.0.1:1/v1"}, "Connection refused"),
        ({"key_pattern": "^OTHER=(.)"}, "the server answered 401"),
        ({"key_file": "/no/such"}, "No such file"),
    ],
)
def test_why_there_is_no_answer_is_said_with_a_hint(
    change: dict[str, str], text: str, port: int, tmp_path: Path
) -> None:
    with pytest.raises(ServeError, match=text) as error:
        converse({**endpoint(tmp_path, port), **change}, "Hello")
    assert "./firstlight doctor -i site --limit a" in (error.value.hint or "")


def test_a_missing_sudo_password_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, command in {"id": "echo 1000", "sudo": "echo a password is required >&2; exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{command}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with (
        closing(LocalSession("a", Connection(kind="local", become=True))) as session,
        pytest.raises(RemoteCommandError, match="it said: a password is required") as error,
    ):
        chat.start(session, "python3", root=True)
    assert "--ask-become-pass" in (error.value.hint or "")


def test_a_host_that_serves_nothing_is_named(tmp_path: Path) -> None:
    for known in (facts("a"), HostFacts(host="a", probed_at="2026-01-01T00:00:00Z")):
        with pytest.raises(ServeError, match="host `a` serves nothing"):
            chat.endpoint_at(local_host(), known, own_paths(tmp_path), TYPED, is_named=True)
    with pytest.raises(ServeError, match="part of a model"):
        endpoint(tmp_path, 1, headless=True)


@pytest.mark.parametrize(("service", "said"), [("failed", "failed"), ("inactive", "inactive"), (None, "not running")])
def test_a_service_that_does_not_run_is_not_asked(tmp_path: Path, service: str | None, said: str) -> None:
    """Whoever has its port now would get the key and the prompt."""
    with pytest.raises(ServeError, match=f"the service of host `a` is {said}") as error:
        endpoint(tmp_path, 1, service=service)
    assert "./firstlight doctor -i site --limit a" in (error.value.hint or "")


@pytest.mark.parametrize(("task", "made"), [("embed", "embeddings"), ("score", "scores")])
def test_a_model_that_makes_no_text_is_named(tmp_path: Path, task: str, made: str) -> None:
    with pytest.raises(ServeError, match=f"model `m` on host `a` makes {made}, and no text"):
        endpoint(tmp_path, 1, task=task)


@pytest.mark.parametrize(
    ("hosts", "words", "expected"),
    [
        ("a", (None, None), ("a", None)),
        ("a", ("a", "Hello"), ("a", "Hello")),
        ("a", ("Hello", None), ("a", "Hello")),
        ("ab", ("b", None), ("b", None)),
        ("abg", ("Hello", None), ("g", "Hello")),
        ("abg", ("b", "Hello"), ("b", "Hello")),
    ],
)
def test_one_word_is_the_prompt_where_no_host_must_be_chosen(
    hosts: str, words: tuple[str | None, str | None], expected: tuple[str, str | None]
) -> None:
    found, prompt = chat.choose(
        [local_host(name, *([GATEWAY] if name == "g" else [])) for name in hosts], *words, TYPED
    )
    assert (found.name, prompt) == expected


@pytest.mark.parametrize(("hosts", "words"), [("ab", (None, None)), ("ab", ("c", None)), ("a", ("c", "Hello"))])
def test_a_host_is_named_where_several_may_be_meant(hosts: str, words: tuple[str | None, str | None]) -> None:
    with pytest.raises(UsageError, match="the inventory has") as error:
        chat.choose([local_host(name) for name in hosts], *words, TYPED)
    assert error.value.hint == "name one: ./firstlight chat a PROMPT -i site"
