"""Many command lines, each in a fork of one process that has imported the product: whole, without the second that a start takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, os, sys
from provision.cli.main import main

codes = []
for number, words in enumerate(json.loads(sys.argv[1])):
    if (pid := os.fork()) == 0:
        os.mkdir(str(number))
        os.chdir(str(number))
        for descriptor, name in ((1, "../%d.out"), (2, "../%d.err")):
            os.dup2(os.open(name % number, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.argv = ["firstlight", *words]
        main()
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(json.dumps(codes))
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def run_all(lines: Sequence[tuple[str, ...]], folder: Path) -> dict[tuple[str, ...], Ended]:
    """Run commands one after the other, each in an empty folder below a folder, and return how each ended.

    Args:
        lines: The words of each command.
        folder: An empty folder.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-X", "utf8", "-c", PROGRAM, json.dumps(lines)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "FIRSTLIGHT_LOGS": "logs", "NO_COLOR": "1"},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [
        [(folder / f"{number}.{name}").read_text("utf-8") for name in ("out", "err")] for number in range(len(lines))
    ]
    return {
        words: Ended(code, *texts) for words, code, texts in zip(lines, json.loads(done.stdout), files, strict=True)
    }
