"""Our own distributions, built here: the same bytes each time, from the same sources, without a network.

Two go into an environment: `firstlight-attention`, the plugin that says which attention each layer of the running engine holds; and, where
vLLM comes as a distribution of another name, a metadata-only `vllm` that requires it (vLLM asks for the metadata of `vllm`, and takes its
platform from the version's local part).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from provision.core.errors import StageError
from provision.core.models.stack import Stack
from provision.phases.stage.lock import Locked
from provision.phases.stage.wheelhouse import Store

PLUGIN = Path(__file__).parents[1] / "serve" / "plugin"
TIMEOUT_S = 300.0
"""For a wheel of a few small files, seconds: it takes one."""
_EPOCH = "1735689600"
"""2025-01-01: the time stamp of every file in our wheels, so that only their content decides the hash."""


@dataclass(frozen=True)
class OwnSource:
    """A project to build: its files by relative path. Their digest stands for the wheel before it is built."""

    files: tuple[tuple[str, bytes], ...]

    def digest(self) -> str:
        total = hashlib.sha256()
        for name, content in self.files:
            total.update(f"{name}\0{len(content)}\0".encode() + content)
        return total.hexdigest()


def own_sources(stack: Stack, *, plugin: Path = PLUGIN) -> list[OwnSource]:
    """What must be built for a Stack; nothing without vLLM."""
    if stack.vllm is None:
        return []
    sources = [_from_folder(plugin)]
    if stack.vllm.distribution != "vllm":
        sources.append(_shim(stack.vllm.distribution, stack.vllm.version, stack.vllm.variant))
    return sources


def build(source: OwnSource, store: Store) -> Locked:
    """The wheel, built and put into the wheelhouse unless it lies there from the same sources.

    Raises StageError when the project cannot be built.
    """
    known = store.get("own", source.digest())
    if known and store.find(known["sha256"], known["name"]):
        return Locked(**known)
    with tempfile.TemporaryDirectory(prefix="firstlight-") as name:
        root = Path(name) / "project"
        for relative, content in source.files:
            path = root / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o644)
        wheel = _build(root, Path(name) / "out")
        path = store.add(wheel)
        distribution, version = path.name.split("-")[:2]
        built = Locked(distribution, version, path.name, path.parent.name, "", path.stat().st_size)
    store.put("own", source.digest(), asdict(built))
    return built


def _from_folder(folder: Path) -> OwnSource:
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix in {".py", ".toml", ".md", ".typed"}
    )
    if not (folder / "pyproject.toml").is_file():
        raise StageError(f"`{folder}` has no pyproject.toml", hint="this checkout is not complete; clone it again")
    return OwnSource(tuple((path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths))


def _shim(distribution: str, version: str, variant: str) -> OwnSource:
    project = f"""[project]
name = "vllm"
version = "{version}+{variant}"
description = "Metadata only: vLLM is here as {distribution}"
dependencies = ["{distribution}=={version}"]

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.hatch.build.targets.wheel]
bypass-selection = true
"""
    return OwnSource((("pyproject.toml", project.encode()),))


def _build(root: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    environ = {**os.environ, "SOURCE_DATE_EPOCH": _EPOCH, "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            command, cwd=root, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise StageError(
            f"our own wheel was not built within {TIMEOUT_S:g} s",
            hint="see what this machine is busy with; run it again",
        ) from None
    wheels = list(out.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise StageError(
            f"our own wheel could not be built: {said[-1] if said else 'hatchling gave no wheel'}",
            hint="this checkout is not complete; clone it again",
        )
    return wheels[0]
