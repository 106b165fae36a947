"""uv solves the request for the host's platform and Python; its answer is a pylock.toml, its refusal one sentence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from provision.artifacts.request import Request
from provision.artifacts.user_index import without_credentials
from provision.errors import StageError

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
        output = _uv([*command, "--python", sys.executable, str(empty)], Path(folder), variables)
    indexes = [
        url
        for option in ("index-url", "extra-index-url")
        for url in re.findall(rf"^--{option} (\S+)", output, re.MULTILINE)
    ]
    return indexes, re.findall(r"^--find-links (.+)$", output, re.MULTILINE)


def solve(request: Request, variables: Mapping[str, str]) -> str:
    """The text of a pylock.toml with every file of every distribution.

    Raises StageError with uv's own sentence when it refuses, or when an index cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="firstlight-") as name:
        folder = Path(name)
        (folder / "pyproject.toml").write_text(_project(request), encoding="utf-8")
        excludes = folder / "excludes.txt"
        excludes.write_text("".join(f"{name}\n" for name in request.excluded), encoding="utf-8")
        constraints = folder / "constraints.txt"
        constraints.write_text("".join(f"{text}\n" for text in request.constraints), encoding="utf-8")
        overrides = folder / "overrides.txt"
        overrides.write_text("".join(f"{text}\n" for text in request.overrides), encoding="utf-8")
        output = folder / "pylock.toml"
        command = [
            "pip",
            "compile",
            "--quiet",
            "--format",
            "pylock.toml",
            "--generate-hashes",
            "--only-binary",
            ":all:",
        ]
        command += ["--python", sys.executable, "--python-version", request.target.python]
        command += ["--python-platform", request.target.uv_platform]
        command += [option for name in request.sources for option in ("--no-binary", name)]
        if request.until:
            command += ["--exclude-newer", f"{request.until}T23:59:59Z"]
            undated = sorted({*request.undated, *(name for name, _ in request.pins)})
            command += [option for name in undated for option in ("--exclude-newer-package", f"{name}=false")]
        command += [
            "--excludes",
            str(excludes),
            "--constraints",
            str(constraints),
            "--overrides",
            str(overrides),
            "--output-file",
            str(output),
            str(folder / "pyproject.toml"),
        ]
        _uv(command, folder, variables)
        return output.read_text(encoding="utf-8")


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


def _project(request: Request) -> str:
    """A pyproject.toml as uv reads it. JSON strings are TOML strings."""
    lines = [
        "[project]",
        'name = "firstlight-environment"',
        'version = "0"',
        f"dependencies = {json.dumps(list(request.requirements))}",
    ]
    urls = list(dict.fromkeys(url for _, url in request.pins))
    if request.pins:
        lines.append("[tool.uv.sources]")
        lines += [f'{name} = {{ index = "pinned-{urls.index(url)}" }}' for name, url in request.pins]
    for number, url in enumerate(urls):
        lines += ["[[tool.uv.index]]", f'name = "pinned-{number}"', f"url = {json.dumps(url)}", "explicit = true"]
    for name in request.sources:
        lines += ["[[tool.uv.dependency-metadata]]", f"name = {json.dumps(name)}", "requires-dist = []"]
    return "\n".join(lines) + "\n"


def _uv(command: list[str], folder: Path, variables: Mapping[str, str]) -> str:
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
