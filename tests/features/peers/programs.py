"""Programs that hosts run in their incoming folders, run here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def answers_of(
    program: Path, word: str, request: Mapping[str, Any], environment: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Run a program with a request, and return what it answers until it ends."""
    with subprocess.Popen(
        [sys.executable, "-I", str(program), word],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        return [json.loads(line) for line in process.stdout]
