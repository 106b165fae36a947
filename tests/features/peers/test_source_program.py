"""The program on hosts that get files by themselves: from a real server, from local folders, and what it says of what does not come."""

import base64
import hashlib
import json
import os
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from provision.features.peers.access import PROGRAM
from provision.features.peers.onhost import peer
from tests.features.peers.test_peer_program import answers_of
from tests.verify.served import served

WHEELS = {"a_b-1-py3-none-any.whl": b"0123456789" * 50_000, "c-2-py3-none-any.whl": b"c" * 1000}
WEIGHTS = b"weights" * 1000
NOTHING: dict[str, Any] = {"indexes": [], "hub": None, "default_hub": "http://127.0.0.1:1"}


def row(name: str, content: bytes, **more: Any) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    return {
        "name": name,
        "sha256": sha256,
        "size": len(content),
        "hub_path": "",
        "offset": 0,
        "part": f"{name}.part",
    } | more


ROWS = [row(name, content) for name, content in WHEELS.items()]


class Server(ThreadingHTTPServer):
    """An index below /simple without hashes and below /html with them, and a hub that sends its files from another place."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, str]] = []
        self.ranges, self.breaks = True, 0
        self.odd: bytes | None = None
        """What it answers for the first wheel instead of HTTP of its kind."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        authorization, asked = self.headers.get("Authorization", ""), self.headers.get("Range", "")
        self.server.asked.append((self.path, asked, authorization))
        if self.server.odd is not None and "a_b" in self.path.replace("-", "_"):
            self.wfile.write(self.server.odd)
            return
        parts = self.path.strip("/").split("/")
        name = next((name for name in WHEELS if name.startswith(parts[-1].replace("-", "_") + "-")), "")
        if parts[0] == "simple" and name:
            self.answer(f'<a href="../../files/{name}">x</a>'.encode())
        elif parts[0] == "html" and name:
            self.answer(f'<a href="/files/{name}#sha256={hashlib.sha256(WHEELS[name]).hexdigest()}">x</a>'.encode())
        elif parts[0] == "other" and name:
            self.answer(f'<a href="/files/{name}#sha256={"0" * 64}">x</a>'.encode())
        elif parts[0] == "files":
            self.answer(WHEELS[parts[1]])
        elif self.path == "/org/name/resolve/main/model.safetensors":
            self.send_response(302)
            self.send_header("Location", "/storage")
            self.end_headers()
        elif self.path == "/storage":
            self.answer(WEIGHTS)
        else:
            self.send_error(404)

    def answer(self, content: bytes) -> None:
        begin = 0
        if self.server.ranges and (asked := self.headers.get("Range")):
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if begin else 200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        end = len(content)
        if self.server.breaks and self.path.startswith("/files"):
            self.server.breaks -= 1
            end = begin + 700
        self.wfile.write(content[begin:end])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with served(Server()) as made:
        yield made


Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def call(word: str, request: dict[str, Any], **environment: str) -> list[dict[str, Any]]:
        own = tmp_path / "in" / ".peers"
        own.mkdir(parents=True)
        (own / PROGRAM.name).write_bytes(PROGRAM.read_bytes())
        (tmp_path / "home").mkdir(exist_ok=True)
        clean = {name: text for name, text in os.environ.items() if not name.startswith(("PIP_", "UV_", "HF_"))}
        variables = clean | {"HOME": str(tmp_path / "home"), "no_proxy": "127.0.0.1"} | environment
        answers = answers_of(own / PROGRAM.name, word, request, variables)
        assert not own.exists(), "the program is gone"
        return answers

    return call


def arrived(tmp_path: Path) -> dict[str, bytes]:
    return {path.name.removesuffix(".part"): path.read_bytes() for path in (tmp_path / "in").glob("*.part")}


def moved(answers: list[dict[str, Any]]) -> int:
    return sum(answer.get("bytes", 0) for answer in answers)


@pytest.mark.parametrize("kind", ["simple", "html"])
def test_wheels_come_from_the_index_of_the_request(kind: str, server: Server, run: Run, tmp_path: Path) -> None:
    answers = run("host", NOTHING | {"indexes": [f"{server.url}/empty", f"{server.url}/{kind}/"], "files": ROWS})
    assert answers[-1] == {"done": True}
    assert arrived(tmp_path) == WHEELS
    assert moved(answers) == sum(map(len, WHEELS.values()))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_goes_on_where_it_ended(ranges: bool, server: Server, run: Run, tmp_path: Path) -> None:
    server.breaks, server.ranges = 1, ranges
    files = [row("a_b-1-py3-none-any.whl", WHEELS["a_b-1-py3-none-any.whl"], offset=100)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / files[0]["part"]).write_bytes(WHEELS[files[0]["name"]][:100])
    answers = run("host", NOTHING | {"indexes": [f"{server.url}/simple"], "files": files})
    assert answers[-1] == {"done": True}
    assert arrived(tmp_path)[files[0]["name"]] == WHEELS[files[0]["name"]]
    ranges_asked = [asked for path, asked, _ in server.asked if path.startswith("/files")]
    assert ranges_asked == ["bytes=100-", "bytes=800-" if ranges else "bytes=700-"]


def test_what_no_index_has_or_has_with_another_hash_is_named(server: Server, run: Run, tmp_path: Path) -> None:
    absent = row("d-1-py3-none-any.whl", b"d")
    answers = run("host", NOTHING | {"indexes": [f"{server.url}/other"], "files": [ROWS[1], absent]})
    lacks = {answer["lacks"]: answer["why"] for answer in answers if "lacks" in answer}
    assert lacks.keys() == {ROWS[1]["sha256"], absent["sha256"]}
    assert f"/other/c/ has it with another SHA-256, {'0' * 64}" in lacks[ROWS[1]["sha256"]]
    assert lacks[absent["sha256"]] == "no index has d-1-py3-none-any.whl"
    assert answers[-1] == {"done": True}
    assert arrived(tmp_path) == {}


@pytest.mark.parametrize("password", ["p%40ss", "p@ss"])
def test_a_login_goes_to_its_index_with_its_files_and_into_no_message(password: str, server: Server, run: Run) -> None:
    index = server.url.replace("//", f"//me:{password}@")
    absent = row("d-1-py3-none-any.whl", b"d", sha256="0" * 64)
    silent = f"http://me:{password}@127.0.0.1:1/"
    answers = run("host", NOTHING | {"indexes": [f"{index}/simple", silent], "files": [absent, ROWS[1]]})
    assert moved(answers) == ROWS[1]["size"]
    assert {authorization for path, _, authorization in server.asked} == {"Basic bWU6cEBzcw=="}
    assert any(path.startswith("/files/") for path, _, _ in server.asked)
    assert "ss@" not in json.dumps(answers)
    assert "p%40ss" not in json.dumps(answers)


@pytest.mark.parametrize(("repository", "user"), [("one", "ada"), ("two", "bob")])
def test_each_repository_of_a_server_has_its_own_login(
    repository: str, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[urllib.request.Request] = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda request, **_: asked.append(request))
    server = "index.example/projects"
    logins = {"ada:x@": "one", "bob:x@": "two", "": "one"}
    indexes = [f"https://{login}{server}/{name}/simple" for login, name in logins.items()]
    client = peer.Client({"indexes": indexes, "hub": "", "default_hub": "https://hub.example"})
    client._open(f"https://{server}/{repository}/files/a.whl", {})
    sent = asked[0].unredirected_hdrs["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent).decode() == f"{user}:x"


@pytest.mark.parametrize(
    "odd",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nends",
        b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"files": []}',
        b"",
    ],
)
def test_an_answer_of_another_form_loses_that_file_alone(odd: bytes, server: Server, run: Run, tmp_path: Path) -> None:
    server.odd = odd
    answers = run("host", NOTHING | {"indexes": [f"{server.url}/simple"], "files": ROWS})
    assert answers[-1] == {"done": True}
    assert [answer["lacks"] for answer in answers if "lacks" in answer] == [ROWS[0]["sha256"]]
    assert arrived(tmp_path)[ROWS[1]["name"]] == WHEELS[ROWS[1]["name"]]


def test_wheels_come_from_an_index_in_a_folder(run: Run, tmp_path: Path) -> None:
    for package, name in zip(("a-b", "c"), WHEELS, strict=True):
        (tmp_path / "index" / package).mkdir(parents=True)
        (tmp_path / "index" / package / name).write_bytes(WHEELS[name])
    (tmp_path / "index/c/index.html").write_text(f'<a href="{ROWS[1]["name"]}#sha256={ROWS[1]["sha256"]}">x</a>')
    answers = run("host", NOTHING | {"indexes": [(tmp_path / "index").as_uri()], "files": ROWS})
    assert answers[-1] == {"done": True}
    assert arrived(tmp_path) == WHEELS


def test_weights_come_from_the_hub_and_a_token_goes_to_the_hub_alone(server: Server, run: Run, tmp_path: Path) -> None:
    path = "org/name/resolve/main/model.safetensors"
    files = [row("model.safetensors", WEIGHTS, hub_path=path)]
    answers = run("host", NOTHING | {"hub": f"{server.url}/", "files": files}, HF_TOKEN="hf_x")
    assert answers[-1] == {"done": True}
    assert arrived(tmp_path) == {"model.safetensors": WEIGHTS}
    assert server.asked == [(f"/{path}", "", "Bearer hf_x"), ("/storage", "", "")]


def folder_of(tmp_path: Path) -> Path:
    """One wheel under its name, one where the controller's cache has it."""
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / ROWS[0]["name"]).write_bytes(WHEELS[ROWS[0]["name"]])
    kept = folder / "files" / ROWS[1]["sha256"][:2] / ROWS[1]["sha256"]
    kept.mkdir(parents=True)
    (kept / ROWS[1]["name"]).write_bytes(WHEELS[ROWS[1]["name"]])
    return folder


def test_files_of_a_wrong_size_or_none_are_named_and_the_others_copied(run: Run, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / ROWS[0]["name"]).write_bytes(b"short")
    absent = row("sub/d.json", b"d")
    request = {"folder": str(folder), "files": [*ROWS, absent]}
    whys = [f"{folder / ROWS[0]['name']} has 5 bytes, not 500000", f"{folder} does not have sub/d.json"]
    answers = run("path", request)
    assert [answer["why"] for answer in answers if "lacks" in answer] == whys
    assert answers[-1] == {"done": True}
    assert arrived(tmp_path) == {ROWS[1]["name"]: WHEELS[ROWS[1]["name"]]}
