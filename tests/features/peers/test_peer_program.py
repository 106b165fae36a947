"""The program on hosts: the line in authorized_keys, what is served, and what arrives from a good or a bad host."""

import hashlib
import io
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.features.peers.access import PROGRAM
from provision.features.peers.onhost import peer
from tests.waiting import PATIENCE_S

LINE = "restrict ssh-ed25519 AAAA"
CONTENT = {"a.whl": b"0123456789" * 1000, "model/config": b"{}"}
SSH = """#!/bin/sh
# stands for the other host: its sshd runs the forced command, whatever was asked for
echo "$@" > {folder}/arguments; stat -c %a {folder}/to/.peers/key >> {folder}/arguments
exec {command}
"""


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home" / ".ssh" / "authorized_keys"
    path.parent.parent.mkdir()
    monkeypatch.setattr(peer, "keys_file", lambda: path)
    return path


def test_a_file_of_keys_is_as_before_when_the_line_is_removed(keys: Path) -> None:
    keys.parent.mkdir()
    for text in ("ssh-rsa AAAA me\n", "# no line end", "", "ssh-rsa AAAA firstlight-peers\n", "ü\udcff\n"):
        keys.write_text(text, errors="surrogateescape")
        keys.chmod(0o640)
        peer.add_line(LINE)
        assert keys.read_text(errors="surrogateescape").splitlines()[-1] == f"{LINE} firstlight-peers added"
        peer.remove_lines()
        assert keys.read_text(errors="surrogateescape").rstrip("\n") == text.rstrip("\n")
        assert stat.S_IMODE(keys.stat().st_mode) == 0o640
    assert [path.name for path in keys.parent.iterdir()] == ["authorized_keys"]


def test_a_file_of_keys_that_was_not_there_is_gone_again(keys: Path) -> None:
    peer.add_line(LINE)
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    peer.remove_lines()
    assert not keys.parent.exists()


def test_keys_that_came_into_a_new_file_stay(keys: Path) -> None:
    peer.add_line(LINE)
    with keys.open("a") as file:
        file.write("ssh-rsa AAAA me\n")
    peer.remove_lines()
    assert keys.read_text() == "ssh-rsa AAAA me\n"


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=40), max_size=6))
def test_no_line_of_others_is_removed(lines: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder, "authorized_keys")
        patch.setattr(peer, "keys_file", lambda: path)
        path.write_text("".join(f"{line}\n" for line in lines))
        peer.add_line(LINE)
        peer.remove_lines()
        kept = [line for line in lines if line.split()[-2:-1] != [peer.MARK]]
        assert path.read_text() == "".join(f"{line}\n" for line in kept)


def grant(own: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(peer, "OWN", own)
    patch.setattr(sys, "stdin", io.StringIO(json.dumps({"key": "ssh-ed25519 AAAA", "seconds": 60}) + "\n"))
    own.mkdir()
    peer.grant()
    assert not own.exists()


def test_a_grant_ends_with_its_input_and_takes_lines_of_earlier_runs_along(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peer.add_line(LINE)
    during: list[str] = []
    monkeypatch.setattr(peer, "say", lambda text: during.append(f"{text} {keys.read_text()}"))
    grant(tmp_path / "own", monkeypatch)
    [line] = during
    command = f'command="{sys.executable} -I {tmp_path / "own" / "peer.py"} serve"'
    assert line.startswith('granted restrict,expiry-time="2')
    assert line.endswith(f"{command} ssh-ed25519 AAAA firstlight-peers new\n")
    assert not keys.exists()
    assert not capsys.readouterr().out


def test_a_file_of_keys_that_cannot_be_written_is_named(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys.mkdir(parents=True)
    grant(tmp_path / "own", monkeypatch)
    assert capsys.readouterr().out == f"{keys}: Is a directory\n"


def place(folder: Path) -> Path:
    """Put the program into an incoming folder, and return its own folder."""
    own = folder / ".peers"
    own.mkdir(parents=True)
    (own / "peer.py").write_bytes(PROGRAM.read_bytes())
    return own


@pytest.fixture
def source(tmp_path: Path) -> Path:
    own = place(tmp_path / "from")
    lines = []
    for name, content in CONTENT.items():
        path = own.parent / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        lines.append(f"{hashlib.sha256(content).hexdigest()} {len(content)} 1 {name}\n")
    (own.parent / ".arrived").write_text("".join(lines))
    return own


def run(own: Path, word: str, given: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-I", str(own / "peer.py"), word]
    return subprocess.run(
        command,
        input=given.encode(),
        capture_output=True,
        check=False,
        env=os.environ | environment,
        timeout=PATIENCE_S,
    )


def sha256(name: str) -> str:
    return hashlib.sha256(CONTENT[name]).hexdigest()


def test_verified_files_are_served_by_hash_from_an_offset(source: Path) -> None:
    done = run(source, "serve", f"{sha256('a.whl')} 9990\n{sha256('model/config')} 0\n")
    assert (done.returncode, done.stdout) == (0, b"0123456789{}")


@pytest.mark.parametrize("asked", ["a.whl 0", f"{'0' * 64} 0", "../from/a.whl 0", f"{sha256('a.whl')} -5", "x", ""])
def test_nothing_else_is_served(source: Path, asked: str) -> None:
    done = run(source, "serve", f"{asked}\n")
    assert (done.returncode, done.stdout) == (1, b"")


def answers_of(
    program: Path, word: str, request: Mapping[str, Any], environment: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Run a program with a request, and return what it answers until it ends."""
    command, pipe = [sys.executable, "-I", str(program), word], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        return [json.loads(line) for line in process.stdout]


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that fetches all files by an `ssh` of ours, with the bytes that are there already."""

    def call(command: str, **there: bytes) -> list[dict[str, Any]]:
        own = place(tmp_path / "to")
        for part, content in there.items():
            (own.parent / part).write_bytes(content)
        ssh = tmp_path / "bin" / "ssh"
        ssh.parent.mkdir()
        ssh.write_text(SSH.format(folder=tmp_path, command=command))
        ssh.chmod(0o755)
        files = [
            {"sha256": sha256(name), "size": len(content), "offset": len(there.get(part, b"")), "part": part}
            for part, (name, content) in zip(("one", "two"), CONTENT.items(), strict=True)
        ]
        request = {
            "key": "the private key",
            "known_hosts": "peer ssh-ed25519 AAAA\n",
            "ssh": ["--", "x"],
            "files": files,
        }
        path = f"{ssh.parent}:{os.environ['PATH']}"
        answers = answers_of(own / "peer.py", "fetch", request, os.environ | {"PATH": path})
        assert not own.exists(), "neither the key nor the program is left"
        # A busy machine reports in several parts.
        received = sum(answer.get("bytes", 0) for answer in answers)
        return [*([{"bytes": received}] if received else []), *(answer for answer in answers if "bytes" not in answer)]

    return call


def test_files_arrive_under_their_names_in_transfer(
    source: Path, tmp_path: Path, fetch: Callable[..., list[dict[str, Any]]]
) -> None:
    answers = fetch(f"{sys.executable} -I {source}/peer.py serve", one=b"0123456789")
    assert answers == [{"bytes": sum(map(len, CONTENT.values())) - 10}, {"done": True}]
    assert [(tmp_path / "to" / part).read_bytes() for part in ("one", "two")] == list(CONTENT.values())
    arguments, mode = (tmp_path / "arguments").read_text().splitlines()
    assert arguments.endswith("known_hosts -- x serve")
    assert "-o UserKnownHostsFile=" in arguments
    assert mode == "600"


def test_a_host_that_breaks_off_leaves_what_came(tmp_path: Path, fetch: Callable[..., list[dict[str, Any]]]) -> None:
    assert fetch("printf 01234") == [{"bytes": 5}, {"problem": "one ended after 5 of 10000 bytes"}]
    assert (tmp_path / "to" / "one").read_bytes() == b"01234"


def test_a_host_that_ended_before_it_was_asked_leaves_what_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "INCOMING", tmp_path)
    pipe = subprocess.PIPE
    with subprocess.Popen(["printf", "01234"], bufsize=0, stdin=pipe, stdout=pipe) as process:
        process.wait()
        file = {"sha256": sha256("a.whl"), "size": 10, "offset": 0, "part": "one"}
        assert peer.receive(process, [file], peer.Report()) == "one ended after 5 of 10 bytes"
    assert (tmp_path / "one").read_bytes() == b"01234"


def test_a_host_that_refuses_is_quoted(fetch: Callable[..., list[dict[str, Any]]]) -> None:
    [answer] = fetch("sh -c 'echo No route to host. >&2; exit 255'")
    assert answer == {"problem": "No route to host."}


def test_a_host_that_sends_too_much_gets_no_further_than_the_size(
    tmp_path: Path, fetch: Callable[..., list[dict[str, Any]]]
) -> None:
    assert fetch("cat /dev/zero")[-1] == {"done": True}
    sizes = [(tmp_path / "to" / part).stat().st_size for part in ("one", "two")]
    assert sizes == [len(content) for content in CONTENT.values()]


def test_bytes_are_reported_while_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peer, "INCOMING", tmp_path)
    monkeypatch.setattr(peer, "REPORT_EVERY_S", 0.0)
    peer.save(io.BytesIO(b"123"), {"size": 3, "offset": 0, "part": "one"}, peer.Report())
    assert json.loads(capsys.readouterr().out) == {"bytes": 3}


FETCH_TWO = """
import sys; sys.path.insert(0, sys.argv[1]); import peer
peer.SILENCE_S = 0.2
client = peer.Client({"indexes": [sys.argv[2]], "hub": "", "default_hub": ""})
for name in ("a-1.whl", "b-1.whl"):
    try:
        client.fetch({"hub_path": "", "name": name, "sha256": "0" * 64, "offset": 0}, None)
    except peer.SourceError as error:
        print(error)
"""


def test_an_index_that_does_not_answer_is_waited_for_once() -> None:
    """Before Python 3.10 a connection that is late raises another error, so an older one is taken where there is one."""
    old = next(Path.home().glob(".pyenv/versions/3.[89].*/bin/python"), Path(sys.executable))
    with socket.create_server(("127.0.0.1", 0)) as index:
        url = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        command = [str(old), "-I", "-c", FETCH_TWO, str(PROGRAM.parent), url]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
        assert done.stdout == "".join(f"{url}/{package}/: timed out\n" for package in "ab")
        index.accept()[0].close()
        index.setblocking(False)
        with pytest.raises(BlockingIOError):
            index.accept()
