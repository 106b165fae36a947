"""uv as a program: where it is, how it is run with the user's settings, and what its refusals say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from provision.catalog.index.settings import without_credentials
from provision.core.errors import StageError

TIMEOUT_S = 600.0


def uv_program() -> str:
    """The uv of our own environment.

    Raises StageError when it is not there.
    """
    from uv import find_uv_bin  # noqa: PLC0415 (a cached stage never needs it)

    try:
        return find_uv_bin()
    except FileNotFoundError as error:
        raise StageError(
            "uv is missing from this product's own environment", hint="remove .venv and start again"
        ) from error


def known_places(variables: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Indexes, the main one first, and find-links places, as uv has them from all its settings; credentials included."""
    with tempfile.TemporaryDirectory(prefix="firstlight-") as folder:
        empty = Path(folder) / "requirements.in"
        empty.touch()
        command = ["pip", "compile", "--quiet", "--no-header", "--offline", "--emit-index-url", "--emit-find-links"]
        output = run_uv([*command, "--python", sys.executable, str(empty)], Path(folder), variables)
    indexes = [
        url
        for option in ("index-url", "extra-index-url")
        for url in re.findall(rf"^--{option} (\S+)", output, re.MULTILINE)
    ]
    return indexes, re.findall(r"^--find-links (.+)$", output, re.MULTILINE)


_EXCERPT = re.compile(r"^ *\d* \|.*\n?", re.MULTILINE)
"""Lines of a settings file that uv could not read: the place is named without them, and they may hold a secret."""


def refusal(stderr: str) -> str:
    """What uv says is wrong, as one line: its conclusion where it gives one, else the error with its last cause."""
    stderr = _EXCERPT.sub("", stderr)
    blocks = re.split(r"^\s*(error|cause|hint|warning):", without_credentials(stderr), flags=re.MULTILINE)
    said = [(kind, " ".join(text.split())) for kind, text in zip(blocks[1::2], blocks[2::2], strict=True)]
    errors = [text for kind, text in said if kind == "error"]
    causes = [text for kind, text in said if kind == "cause"]
    if causes and causes[0].startswith("Because"):
        return causes[0]
    return (
        ": ".join([*errors[:1], *causes[-1:]])
        or " ".join(without_credentials(stderr).split())
        or "uv ended without a message"
    )


def run_uv(command: list[str], folder: Path, variables: Mapping[str, str]) -> str:
    """Run uv in a folder with the user's settings as variables, and return what it printed.

    Raises StageError with uv's own sentence when it refuses, or when an index cannot be reached.
    """
    program = uv_program()
    defaults = {"UV_HTTP_RETRIES": "1", "UV_HTTP_TIMEOUT": "30"}
    environ = {**defaults, **os.environ, **variables, "NO_COLOR": "1", "UV_NO_PROGRESS": "1", "COLUMNS": "4000"}
    for name in ("VIRTUAL_ENV", "UV_TORCH_BACKEND"):
        # The plan has chosen torch's variant, and its index is pinned.
        environ.pop(name, None)
    try:
        done = subprocess.run(
            [program, *command], cwd=folder, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise StageError(
            f"uv did not answer within {TIMEOUT_S:.0f} s",
            hint="check that the package indexes are reachable from this machine",
        ) from error
    if done.returncode:
        raise StageError(
            refusal(done.stderr), hint="the packages that fit are looked for in your own pip and uv index settings"
        )
    return done.stdout
