"""A case of the security benchmark, its row in the result, and the tools that cases share."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness import ROOT, say

Status = Literal["pass", "fail", "not run"]
LONGEST = 400
"""Characters of what happened in a row."""


@dataclass(frozen=True)
class Outcome:
    """What a case saw."""

    text: str
    wrong: int = 0
    """What should not be there: secrets found, files with wrong permissions, manipulations accepted."""
    status: Status = "pass"


@dataclass(frozen=True)
class Case:
    """Something that is done to the product, and what must happen."""

    group: str
    did: str
    expected: str
    act: Callable[[Path], Outcome]


CASES: list[Case] = []


def case(group: str, did: str, expected: str) -> Callable[[Callable[[Path], Outcome]], Callable[[Path], Outcome]]:
    """Add a function to the cases; it gets an empty folder."""

    def add(act: Callable[[Path], Outcome]) -> Callable[[Path], Outcome]:
        CASES.append(Case(group, did, expected, act))
        return act

    return add


def row_of(one: Case) -> dict[str, Any]:
    """Run a case and return its row. Whatever it raises is a failed case."""
    say(f"{one.group}: {one.did}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="firstlight-security-") as folder, own_environment(Path(folder)):
        try:
            outcome = one.act(Path(folder))
        except Exception as error:  # noqa: BLE001 - a case that cannot be carried out has not passed
            outcome = Outcome(f"{type(error).__name__}: {error}", 1, "fail")
        text = outcome.text.replace(str(Path(folder).resolve()), "FOLDER").replace(str(ROOT), "CHECKOUT")
    status: Status = "fail" if outcome.wrong and outcome.status == "pass" else outcome.status
    return {
        "group": one.group,
        "did": one.did,
        "expected": one.expected,
        "happened": " ".join(text.split())[:LONGEST],
        "wrong": outcome.wrong,
        "result": status,
        "seconds": round(time.monotonic() - started, 1),
    }


@contextmanager
def own_environment(folder: Path, **more: str) -> Iterator[None]:
    """Give this process and its children folders of their own, and no settings of the user."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", "FIRSTLIGHT_", "HF_"))]:
        del os.environ[name]
    os.environ |= {
        "PIP_CONFIG_FILE": os.devnull,
        "XDG_CONFIG_HOME": str(folder / "config"),
        "UV_CACHE_DIR": str(folder / "uv"),
        "FIRSTLIGHT_LOGS": str(folder / "logs"),
        "FIRSTLIGHT_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(ROOT),
        **more,
    }
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout + self.stderr


PRODUCT = (
    "import runpy, sys; sys.argv[0] = 'firstlight'; runpy.run_module('provision', run_name='__main__', alter_sys=True)"
)


def python(code: str, *arguments: str, folder: Path, umask: int | None = None) -> Ended:
    """Run a program of Python in a folder."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        capture_output=True,
        umask=-1 if umask is None else umask,
        check=False,
    )
    return Ended(done.returncode, *(stream.decode(errors="surrogateescape") for stream in (done.stdout, done.stderr)))


def firstlight(*arguments: str, folder: Path, umask: int | None = None) -> Ended:
    """Run a command of the product."""
    return python(PRODUCT, *arguments, folder=folder, umask=umask)


@contextmanager
def arguments_of_processes() -> Iterator[set[str]]:
    """Collect the arguments of every process on this machine while the block runs, except those of this process."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.update(path.read_bytes().decode(errors="replace").split("\0"))
                except OSError:
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def outcome_of(found: list[str], searched: str) -> Outcome:
    """Return the outcome of a search."""
    return Outcome(f"{searched}: {'; '.join(found[:5]) if found else 'none found'}", len(found))
