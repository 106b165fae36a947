"""uv's resolver, run for the platform and Python of a host."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from provision.catalog.index.uv import run_uv
from provision.core.scratch import scratch_folder
from provision.phases.stage.solve_request import SolveRequest


def solve(request: SolveRequest, variables: Mapping[str, str]) -> str:
    """Solve a request with uv.

    Returns:
        The text of a pylock.toml with every file of every distribution.

    Raises:
        StageError: uv refuses, or an index cannot be reached. The text is uv's own sentence.
    """
    with scratch_folder() as folder:
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
        run_uv(command, folder, variables)
        return output.read_text(encoding="utf-8")


def _project(request: SolveRequest) -> str:
    """Return a pyproject.toml for uv. JSON strings are valid TOML strings."""
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
