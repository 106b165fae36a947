"""The inputs of a build: the sdist and the wheels of its build environment, fetched once into the wheelhouse, each with its hash.

The environment has the Stack's own torch, from the same file, and torch's requirements at the Stack's versions. So the wheel is built against
exactly the torch that it runs with.
"""

from __future__ import annotations

import tarfile
import tomllib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from provision.catalog.index.sources import IndexSources
from provision.core.errors import StageError
from provision.features.wheel_builder.recipes import tools
from provision.phases.stage.download import Progress
from provision.phases.stage.platforms import Target
from provision.phases.stage.solve import LockedWheel, SolveRequest, choose_wheels, solve
from provision.phases.stage.stack_lock import fetch_wheels
from provision.phases.stage.wheelhouse import Store

TORCH = "torch"


@dataclass(frozen=True)
class BuildInputs:
    """The inputs of a build, in the wheelhouse."""

    sdist: Path
    wheels: tuple[LockedWheel, ...]
    """Wheels of the build environment, torch among them."""


def fetch_build_inputs(
    requirement: str,
    stack: Sequence[LockedWheel],
    target: Target,
    sources: IndexSources,
    store: Store,
    *,
    extra: Iterable[str] = (),
    progress: Progress | None = None,
) -> BuildInputs:
    """Fetch the sdist of `NAME==VERSION` and its build requirements.

    Args:
        stack: The Stack's locked wheels; their versions are constraints.
        extra: Further build requirements.

    Raises:
        StageError: The index has no sdist, uv refuses, or a file cannot be had.
    """
    sdist = find_sdist(requirement, target, sources)
    path = fetch_wheels([sdist], sources, store, progress=progress)[sdist.sha256]
    torch = next(wheel for wheel in stack if canonicalize_name(wheel.distribution) == TORCH)
    file = store.path(torch.sha256, torch.name)
    wanted = {*tools(), *build_requirements(path), *extra}
    request = SolveRequest(
        target,
        (f"{TORCH} @ {file.as_uri()}", *sorted(wanted)),
        constraints=tuple(f"{wheel.distribution}=={wheel.version}" for wheel in stack if wheel is not torch),
    )
    wheels = [torch, *choose_wheels(solve(request, sources.variables), target, own=[TORCH])]
    fetch_wheels(wheels[1:], sources, store, progress=progress)
    return BuildInputs(path, tuple(wheels))


def find_sdist(requirement: str, target: Target, sources: IndexSources) -> LockedWheel:
    """Locate the sdist of a release on the user's indexes. Its code is not run, so its requirements are not known yet.

    Raises:
        StageError: There is none, or none with a sha256.
    """
    name = Requirement(requirement).name
    pylock = solve(SolveRequest(target, (requirement,), sources=(name,)), sources.variables)
    package: dict[str, Any] = next(
        entry
        for entry in tomllib.loads(pylock)["packages"]
        if canonicalize_name(entry["name"]) == canonicalize_name(name)
    )
    sdist = package.get("sdist") or {}
    sha256 = sdist.get("hashes", {}).get("sha256")
    url = sdist.get("url") or (Path(sdist["path"]).as_uri() if "path" in sdist else None)
    if not sha256 or not url:
        raise StageError(
            f"the index has no sdist of {requirement} with a sha256",
            hint="use a release with an sdist, on an index with sha256 hashes",
        )
    file = sdist.get("name") or url.rpartition("/")[2]
    return LockedWheel(name, package["version"], file, sha256, url, sdist.get("size"))


def build_requirements(sdist: Path) -> list[str]:
    """Read the build requirements in an sdist's pyproject.toml, without torch, which is fixed.

    Raises:
        StageError: The sdist is no gzipped tar (PEP 625), or its pyproject.toml is invalid.
    """
    try:
        with tarfile.open(sdist) as packed:
            member = next(
                (entry for entry in packed if entry.name.count("/") == 1 and entry.name.endswith("/pyproject.toml")),
                None,
            )
            file = packed.extractfile(member) if member else None
            table = tomllib.loads(file.read().decode()) if file else {}
            needs = [Requirement(text) for text in table.get("build-system", {}).get("requires", [])]
    except (tarfile.TarError, EOFError, zlib.error, ValueError, TypeError, AttributeError) as error:
        raise StageError(
            f"`{sdist.name}` is not a valid sdist: {error}", hint="use another release or index"
        ) from error
    return [str(need) for need in needs if canonicalize_name(need.name) != TORCH]
