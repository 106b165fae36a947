"""No control sequence reaches the terminal, wherever the text comes from; tested on a pseudo-terminal."""

import contextlib
import io
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.command_lines import inventory_of, start_on_terminal
from tests.report.sample import CPU_STACK, Folder, facts, host
from verify.printable import GuardedStream, printable

CLIPBOARD = "\x1b]52;c;ZXZpbA==\x07"
NESTED = "\x1b\x1b[0m]52;c;ZXZpbA==\x1b[0m\x07 \x1b[\x1b[0m2J \x1b]\x1b]0;x\x070;title\x07"
OTHERS = "\x1bc \x9b2J \x9d0;title\x9c \x0e \x08\x08 \x07 \x7f \r \x85 \u202e\u2066 \u2028 \ufeff \x1bP1$q\x1b\\ \x1b"
HOSTILE = f"a{CLIPBOARD}b{NESTED}c{OTHERS}d"
RUN = "20261120T101500Z"
NO_KERNEL = "RuntimeError: CUDA error: no kernel image is available for execution"


def on_terminal(*arguments: str, folder: Path) -> str:
    """Return what a command sends to a terminal, decoded as the terminal would."""
    process, ours = start_on_terminal(*arguments, logs=folder / "logs", term="dumb")
    shown = b""
    with contextlib.suppress(OSError):  # the terminal of a process that has ended
        while block := os.read(ours, 1 << 16):
            shown += block
    os.close(ours)
    process.wait(60)
    return shown.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


def commanding(text: str) -> list[str]:
    """Return characters that a terminal may interpret as a command, or that change what is seen."""
    return sorted({hex(ord(char)) for char in text if char not in "\n\t" and unicodedata.category(char)[0] == "C"})


def run_folder(folder: Path) -> None:
    """A run whose every text is hostile, including files that are shown unchanged."""
    made = Folder(folder / "logs" / RUN, [host("a", local=True)], source=HOSTILE)
    made.run.write("facts/a.json", facts("a").model_copy(update={"unknown": {"driver": HOSTILE}}))
    made.planned(["a"], CPU_STACK)
    made.run.path("summary.txt").write_text(HOSTILE)
    made.run.path("summary.json").write_text(json.dumps({"verdict": "green", "command": HOSTILE, "hosts": []}))
    header = json.loads(made.run.path("run.json").read_text())
    made.run.path("run.json").write_text(json.dumps({**header, "command": HOSTILE, "user": HOSTILE}))
    made.run.path("events.jsonl").write_text(json.dumps({"kind": "result", "host": HOSTILE, "text": HOSTILE}) + "\n")
    (folder / "logs" / "latest").symlink_to(RUN)


def _log(content: bytes) -> Callable[[Path], tuple[str, ...]]:
    def made(folder: Path) -> tuple[str, ...]:
        (folder / "x.log").write_bytes(content)
        return ("doctor", "x.log")

    return made


def _inventory(folder: Path) -> tuple[str, ...]:
    inventory_of(folder, **{HOSTILE.replace("\r", ""): None})
    return ("probe", "-i", "hosts.yml")


def _settings(folder: Path) -> tuple[str, ...]:
    inventory_of(folder, a={"ansible_connection": "local", "firstlight_driver": HOSTILE, f"firstlight_{HOSTILE}": 1})
    return ("plan", "-i", "hosts.yml")


def _facts(folder: Path) -> tuple[str, ...]:
    known = facts("a").model_dump(mode="json") | {"host": HOSTILE}
    known["os"] |= {"name": HOSTILE, "kernel": HOSTILE}
    known["cpu"] |= {"model": HOSTILE}
    (folder / "facts.json").write_text(json.dumps(known))
    return ("plan", "--facts", "facts.json", "--explain")


def _runs(*arguments: str) -> Callable[[Path], tuple[str, ...]]:
    def made(folder: Path) -> tuple[str, ...]:
        run_folder(folder)
        return arguments

    return made


SOURCES: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "log": _log(f"{NO_KERNEL} {HOSTILE} on the device\n".encode()),
    "log of JSON records": _log(json.dumps({"msg": f"{NO_KERNEL} {HOSTILE} on the device"}).encode()),
    "log of raw bytes": _log(NO_KERNEL.encode() + b" \x9b2J \x90 \x1b\x1b[m]0;t\x07 on the device\n"),
    "host name": _inventory,
    "setting": _settings,
    "facts": _facts,
    "run shown": _runs("logs", "show"),
    "runs listed": _runs("logs", "list"),
    "runs compared": _runs("logs", "diff", RUN, RUN),
    "run archived": _runs("logs", "archive"),
    "unknown run": lambda _: ("logs", "show", HOSTILE),
    "unknown command": lambda _: (HOSTILE,),
    "unknown option": lambda _: ("plan", f"--{HOSTILE}"),
    "limit": lambda _: ("probe", "--limit", HOSTILE),
    "what-if": lambda _: ("plan", "--what-if", f"gpu=H100x1 os={HOSTILE}"),
    "no such file": lambda _: ("doctor", HOSTILE),
    "no such check": lambda _: ("verify", "--only", HOSTILE),
    "model": lambda _: ("plan", "--what-if", "gpu=H100x1", "--model", HOSTILE),
}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_no_control_character_reaches_the_terminal(source: str, tmp_path: Path) -> None:
    shown = on_terminal(*SOURCES[source](tmp_path), folder=tmp_path)
    assert shown.strip()
    assert commanding(shown) == []


@pytest.mark.slow
@given(st.text() | st.from_regex(r"(\x1b(\x1b\[0m|\[|\]|c|)|[\x00-\x9f\u2066]|52;c;|m|\x07){1,40}"))
def test_printable_text_has_no_control_characters(text: str) -> None:
    shown = printable(text)
    assert commanding(shown) == []
    assert printable(shown) == shown


@given(st.text(st.characters(categories=("L", "N", "P", "S", "M"))))
def test_visible_characters_stay(text: str) -> None:
    assert printable(f"{text}\n\t {text}") == f"{text}\n\t {text}"


@pytest.mark.parametrize(("encoding", "written"), [("utf-8", "ä  ü\n".encode()), ("ascii", b"\\xe4  \\xfc\n")])
def test_a_guarded_stream_writes_in_its_encoding(encoding: str, written: bytes) -> None:
    under = io.BytesIO()
    plain = io.TextIOWrapper(under, encoding=encoding)
    stream = GuardedStream(plain)
    stream.writelines(["ä \x1b", "ü\n"])
    stream.flush()
    assert under.getvalue() == written
    plain.detach()
    stream.detach()


@pytest.mark.parametrize(("isatty", "variables"), [(True, {}), (True, {"NO_COLOR": "1"}), (False, {})])
def test_a_terminal_shows_verdicts_in_colour(
    isatty: bool, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    taken = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(taken, "isatty", lambda: isatty, raising=False)
    stream = GuardedStream(taken)
    stream.write("RED: 1 host failed\nGREEN is a word\nAMBER: \x1b[2Ja\n")
    stream.flush()
    shown = taken.buffer.getvalue().decode()
    is_coloured = isatty and not variables
    assert ("\x1b[31mRED\x1b[0m: 1 host" in shown, "\x1b[33mAMBER\x1b[0m: a" in shown) == (is_coloured, is_coloured)
    assert "GREEN is" in shown
    assert "\x1b[2J" not in shown
