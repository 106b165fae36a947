"""Wheels of this product's own distributions, built on the controller: reproducible, without a network.

Two are for environments: `firstlight-attention`, the plugin that reports the attention backend of each layer of the running engine,
and a metadata-only `vllm` where vLLM comes as a distribution of another name. vLLM reads the metadata of `vllm`, and its platform from
the local part of that version.
"""

import hashlib
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from provision.core.errors import StageError
from provision.core.folders import product_path
from provision.core.models.stack import Stack
from provision.core.process import run_program
from provision.core.scratch import scratch_folder
from provision.phases.stage.solve import LockedWheel
from provision.phases.stage.wheelhouse import Store

PLUGIN = product_path("provision") / "phases/serve/plugin"
TIMEOUT_S = 300.0
"""For a wheel of a few small files, seconds; the usual time is one second."""
_EPOCH = "1735689600"
"""2025-01-01: time stamp of every file in the wheels, so that only their content decides the hash."""


@dataclass(frozen=True)
class LocalSource:
    """A project to build: its files by relative path. Their digest is the cache key of the wheel."""

    files: tuple[tuple[str, bytes], ...]

    def digest(self) -> str:
        total = hashlib.sha256()
        for name, content in self.files:
            total.update(f"{name}\0{len(content)}\0".encode() + content)
        return total.hexdigest()


def local_sources(stack: Stack) -> list[LocalSource]:
    """Return the projects to build for a Stack; none without vLLM."""
    if stack.vllm is None:
        return []
    if not (PLUGIN / "pyproject.toml").is_file():
        raise StageError(f"`{PLUGIN}` has no pyproject.toml", hint="this checkout is incomplete; clone it again")
    files = [path for path in sorted(PLUGIN.rglob("*")) if path.suffix in {".py", ".toml", ".md", ".typed"}]
    sources = [LocalSource(tuple((path.relative_to(PLUGIN).as_posix(), path.read_bytes()) for path in files))]
    if stack.vllm.distribution != "vllm":
        sources.append(_shim(stack.vllm.distribution, stack.vllm.version, stack.vllm.variant))
    return sources


def build_local_wheel(source: LocalSource, store: Store) -> LockedWheel:
    """Build a wheel and put it into the wheelhouse, unless it is there from the same sources. Raises StageError."""
    known = store.get("own", source.digest())
    if known and store.find(known["sha256"], known["name"]):
        return LockedWheel(**known)
    with scratch_folder() as scratch:
        root = scratch / "project"
        for relative, content in source.files:
            path = root / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o644)
        wheel = _build(root, scratch / "out")
        path = store.add(wheel)
        distribution, version = path.name.split("-")[:2]
        built = LockedWheel(distribution, version, path.name, path.parent.name, "", path.stat().st_size)
    store.put("own", source.digest(), asdict(built))
    return built


def _shim(distribution: str, version: str, variant: str) -> LocalSource:
    project = f"""[project]
name = "vllm"
version = "{version}+{variant}"
description = "Metadata only: vLLM is installed as {distribution}"
dependencies = ["{distribution}=={version}"]

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.hatch.build.targets.wheel]
bypass-selection = true
"""
    return LocalSource((("pyproject.toml", project.encode()),))


def _build(root: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    environ = {**os.environ, "SOURCE_DATE_EPOCH": _EPOCH, "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
    timeout_error = StageError(
        f"a local wheel was not built within {TIMEOUT_S:g} s", hint="check the load of this machine and run again"
    )
    done = run_program(command, timeout_error, timeout_s=TIMEOUT_S, cwd=root, env=environ)
    wheels = list(out.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise StageError(
            f"a local wheel cannot be built: {lines[-1] if lines else 'hatchling wrote no wheel'}",
            hint="this checkout is incomplete; clone it again",
        )
    return wheels[0]
