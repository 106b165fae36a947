"""uv's resolver, run for the platform and Python of a host, and the choice of the wheels that fit it."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Collection, Mapping

from packaging.pylock import PackageWheel, Pylock, PylockSelectError, PylockValidationError
from packaging.utils import canonicalize_name

from provision.catalog.index.settings import without_credentials
from provision.catalog.index.uv import run_uv
from provision.core.errors import StageError
from provision.core.scratch import scratch_folder
from provision.phases.stage.lock_file import LockedWheel
from provision.phases.stage.platforms import Target
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
        listed = {"excludes": request.excluded, "constraints": request.constraints, "overrides": request.overrides}
        for option, lines in listed.items():
            path = folder / f"{option}.txt"
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            command += [f"--{option}", str(path)]
        command += ["--output-file", str(output), str(folder / "pyproject.toml")]
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


def choose_wheels(pylock: str, target: Target, *, own: Collection[str] = ()) -> list[LockedWheel]:
    """Choose the wheel of each distribution.

    Args:
        own: Names of distributions to leave out, since they are built on the controller.

    Raises:
        StageError: A distribution has no wheel that fits, or one without a sha256.
    """
    local = {canonicalize_name(name) for name in own}
    try:
        lock = Pylock.from_dict(tomllib.loads(pylock))
        chosen = [
            (package, choice)
            for package, choice in lock.select(environment=target.markers(), tags=target.tags())
            if package.name not in local
        ]
    except (PylockSelectError, PylockValidationError, tomllib.TOMLDecodeError) as error:
        raise StageError(
            f"uv's lock does not fit Python {target.python} on {target.machine}: {without_credentials(str(error))}"
        ) from error
    locked = []
    for package, choice in chosen:
        if not isinstance(choice, PackageWheel):
            raise StageError(
                f"no wheel of {package.name} {package.version} fits {target.wheel_tag}", cause="platform-no-wheel"
            )
        sha256 = choice.hashes.get("sha256")
        if not sha256 or not choice.url:
            raise StageError(
                f"the index gives no sha256 for `{choice.filename}`",
                hint="use an index that announces sha256 hashes (PEP 503)",
            )
        locked.append(LockedWheel(package.name, str(package.version), choice.filename, sha256, choice.url, choice.size))
    return locked
