"""The uv program: its path, its run with the user's settings, and its error messages."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from uv import find_uv_bin

from provision.catalog.index.settings import NO_INDEX, ClientSettings, uv_variables, with_logins, without_credentials
from provision.core.errors import StageError
from provision.core.process import run_program
from provision.core.scratch import scratch_folder

TIMEOUT_S = 600.0


def uv_program() -> str:
    """Return the path of uv in this product's environment.

    Raises:
        StageError: It is missing.
    """
    try:
        return find_uv_bin()
    except FileNotFoundError as error:
        raise StageError(
            "uv is missing from this product's own environment", hint="remove .venv and run again"
        ) from error


def read_uv_locations(settings: ClientSettings) -> tuple[list[str], list[str]]:
    """Return the indexes, the main one first, without pip's extra ones, and the find-links locations of uv's merged settings, with credentials."""
    variables = uv_variables(replace(settings, extra_indexes=()), default_index="")
    with scratch_folder() as folder:
        empty = folder / "requirements.in"
        empty.touch()
        command = ["pip", "compile", "--quiet", "--no-header", "--offline", "--emit-index-url", "--emit-find-links"]
        output = run_uv([*command, "--python", sys.executable, str(empty)], folder, variables)
    indexes = [
        url
        for option in ("index-url", "extra-index-url")
        for url in re.findall(rf"^--{option} (\S+)", output, re.MULTILINE)
    ]
    return with_logins(indexes, settings), re.findall(r"^--find-links (.+)$", output, re.MULTILINE)


_EXCERPT = re.compile(r"^ *\d* \|.*\n?", re.MULTILINE)
"""Lines of a settings file that uv cannot read. They are removed, since they may have a secret."""


def refusal(stderr: str) -> str:
    """Return uv's error as one line: its conclusion where present, else the error with its last cause."""
    stderr = _EXCERPT.sub("", stderr)
    blocks = re.split(r"^\s*(error|cause|hint|warning):", without_credentials(stderr), flags=re.MULTILINE)
    parts = [(kind, " ".join(text.split())) for kind, text in zip(blocks[1::2], blocks[2::2], strict=True)]
    errors = [text for kind, text in parts if kind == "error"]
    causes = [text for kind, text in parts if kind == "cause"]
    if causes and causes[0].startswith("Because"):
        return causes[0]
    return (
        ": ".join([*errors[:1], *causes[-1:]])
        or " ".join(without_credentials(stderr).split())
        or "uv ended without a message"
    )


def run_uv(command: list[str], folder: Path, variables: Mapping[str, str]) -> str:
    """Run uv in a folder with the user's settings as variables, and return its output.

    Raises:
        StageError: uv refuses, or an index cannot be reached. The text is uv's own sentence.
    """
    program = uv_program()
    defaults = {"UV_HTTP_RETRIES": "1", "UV_HTTP_TIMEOUT": "30"}
    environ = {**defaults, **os.environ, **variables, "NO_COLOR": "1", "UV_NO_PROGRESS": "1", "COLUMNS": "4000"}
    for name in ("VIRTUAL_ENV", "UV_TORCH_BACKEND"):
        # The plan chose torch's variant and pins its index.
        environ.pop(name, None)
    if environ.pop(NO_INDEX, None):
        command = [*command, "--no-index"]
    timeout_error = StageError(
        f"uv did not end within {TIMEOUT_S:.0f} s", hint="check that this machine can reach the package indexes"
    )
    done = run_program([program, *command], timeout_error, timeout_s=TIMEOUT_S, cwd=folder, env=environ)
    if done.returncode:
        raise StageError(refusal(done.stderr), hint="check the indexes in your pip and uv settings")
    return done.stdout
