"""What a build is made of: the sdist, and the wheels of its build environment, each by its hash, fetched once into the wheelhouse.

The environment holds the Stack's own torch, by its very file, and what torch needs at the Stack's versions; so the wheel is built against the
torch that it will meet, and against no other.
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

from provision.catalog.index.http_client import open_client
from provision.catalog.index.sources import Sources
from provision.core.errors import StageError
from provision.phases.stage.builds.recipes import tools
from provision.phases.stage.download import Progress, fetch_all
from provision.phases.stage.lock import Locked
from provision.phases.stage.platforms import Target
from provision.phases.stage.solve import solve
from provision.phases.stage.solve_request import Request
from provision.phases.stage.wheel_choice import choose_wheels
from provision.phases.stage.wheelhouse import Store

TORCH = "torch"


@dataclass(frozen=True)
class Ingredients:
    """Everything in the wheelhouse."""

    sdist: Path
    wheels: tuple[Locked, ...]
    """Of the build environment, torch among them."""


def gather(
    requirement: str,
    stack: Sequence[Locked],
    target: Target,
    sources: Sources,
    store: Store,
    *,
    extra: Iterable[str] = (),
    progress: Progress | None = None,
) -> Ingredients:
    """Find and fetch the sdist of `NAME==VERSION`, and all that its build needs beside a Stack's locked wheels.

    Raises StageError when the index has no sdist, when uv refuses, or when a file cannot be had.
    """
    sdist = find_sdist(requirement, target, sources)
    path = _fetch([sdist], sources, store, progress)[sdist.sha256]
    torch = next(wheel for wheel in stack if canonicalize_name(wheel.distribution) == TORCH)
    file = store.path(torch.sha256, torch.name)
    wanted = {*tools(), *build_requirements(path), *extra}
    request = Request(
        target,
        (f"{TORCH} @ {file.as_uri()}", *sorted(wanted)),
        constraints=tuple(f"{wheel.distribution}=={wheel.version}" for wheel in stack if wheel is not torch),
    )
    wheels = [torch, *choose_wheels(solve(request, sources.variables), target, own=[TORCH])]
    _fetch([wheel for wheel in wheels if wheel is not torch], sources, store, progress)
    return Ingredients(path, tuple(wheels))


def find_sdist(requirement: str, target: Target, sources: Sources) -> Locked:
    """The source of a release in the user's indexes. Nothing of it is run, so what it requires is not known yet.

    Raises StageError when there is none, or one without a sha256.
    """
    name = Requirement(requirement).name
    pylock = solve(Request(target, (requirement,), sources=(name,)), sources.variables)
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
            f"the index gives no source of {requirement} with a sha256",
            hint="name a release that has an sdist, on an index that announces sha256 hashes",
        )
    file = sdist.get("name") or url.rpartition("/")[2]
    return Locked(name, package["version"], file, sha256, url, sdist.get("size"))


def build_requirements(sdist: Path) -> list[str]:
    """What an sdist's pyproject.toml wants for its build, torch left out: that one is fixed.

    Raises StageError when the sdist is no gzipped tar as PEP 625 has it, or its pyproject.toml is not one.
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
        raise StageError(f"`{sdist.name}` is no whole sdist: {error}", hint="use another release or index") from error
    return [str(need) for need in needs if canonicalize_name(need.name) != TORCH]


def _fetch(files: Sequence[Locked], sources: Sources, store: Store, progress: Progress | None) -> dict[str, Path]:
    return fetch_all(store, files, lambda: open_client(sources.settings, sources.indexes), progress=progress)
