"""One build, from a build key to a checked wheel in the build cache, which serves a fleet and every later run."""

import contextlib
import hashlib
import json
import re
import tarfile
import tomllib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import ValidationError

from provision.catalog.index.project_page import IndexSources
from provision.catalog.versions import numbers
from provision.core.errors import StageError, TransportError
from provision.core.files import write_atomically
from provision.core.models.base import Record
from provision.core.models.staged import StagedFile
from provision.core.run_folder import utc_now
from provision.features.wheel_builder.build_host import BuilderFacts, BuildHost, BuildRequest, BuildResult
from provision.features.wheel_builder.recipes import BuildKey, Recipe, recipe_for, toolkit, tools
from provision.features.wheel_builder.wheel_check import find_mismatches
from provision.phases.stage.download import Progress
from provision.phases.stage.extension import read_extension
from provision.phases.stage.programs import stage_uv
from provision.phases.stage.solve import LockedWheel, SolveRequest, Target, choose_wheels, lock_text, solve
from provision.phases.stage.stack_lock import fetch_wheels
from provision.phases.stage.wheelhouse import Store
from verify.binaries.elf import native_for

_KIND = "builds"
TORCH = "torch"


class BuiltWheel(Record):
    """A built wheel, and how it was built."""

    key: BuildKey
    """The build key, with the C library that the wheel really needs."""
    torch: str
    """Full version of the torch that it was built against."""
    name: str
    sha256: str
    size: int
    codes: tuple[str, ...]
    """GPU architectures with native code."""
    builder: str
    built_at: str
    jobs: int
    cpu_seconds: float
    """CPU time of all processes of the build."""
    largest_process_gib: float
    nvcc: str | None
    log: str
    """Path of the build log on the controller."""

    def serves(self, wanted: BuildKey) -> bool:
        """Check whether the wheel matches a key: with native code for its cards, or without code when kernels are compiled on the host."""
        codes, cards = set(self.codes), wanted.built_for.capabilities
        fits = all(native_for(codes, card) for card in cards) if recipe_for(wanted).compiled else not codes
        older = numbers(self.key.built_for.glibc) <= numbers(wanted.built_for.glibc)
        return fits and older and self.key.same_build(wanted)


class BuildCache:
    """The built wheels in a wheelhouse."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, wanted: BuildKey) -> BuiltWheel | None:
        """Return an undamaged wheel that matches the key; None when there is none."""
        for built in self:
            if built.serves(wanted) and self._store.find(built.sha256, built.name):
                return built
        return None

    def put(self, built: BuiltWheel) -> None:
        """Record a wheel under its key. It replaces an older one."""
        self._store.put(_KIND, built.key.slug, built.model_dump(mode="json"))

    def __iter__(self) -> Iterator[BuiltWheel]:
        for path in sorted((self._store.root / _KIND).glob("*.json")):
            try:
                yield BuiltWheel.model_validate(self._store.get(_KIND, path.stem) or {})
            except ValidationError:
                continue  # written by another release of this product

    def log_path(self, key: BuildKey) -> Path:
        """Return the path of the log of a build."""
        return self._store.root / _KIND / f"{key.slug}.log"


@dataclass(frozen=True)
class BuildJob:
    """A build to be done."""

    key: BuildKey
    stack: Sequence[LockedWheel]
    """The Stack's locked wheels, torch among them, in the wheelhouse."""
    target: Target
    cuda: str
    """Release of the toolkit, `13.0`; empty for ROCm."""
    sources: IndexSources
    store: Store
    progress: Progress | None = None

    @property
    def torch(self) -> LockedWheel:
        return next(wheel for wheel in self.stack if canonicalize_name(wheel.distribution) == TORCH)

    @property
    def torch_path(self) -> Path:
        return self.store.path(self.torch.sha256, self.torch.name)


def build_wheel(job: BuildJob, build_host: BuildHost, interpreter: Callable[[], StagedFile]) -> BuiltWheel:
    """Build the wheel of a key and put it into the build cache.

    Args:
        interpreter: Fetches a managed Python. Called only when the build host has none that fits.

    Raises:
        StageError: The build host lacks a requirement, the build fails, or the wheel does not match its key.
        TransportError: The connection to the build host broke.
    """
    recipe = recipe_for(job.key)
    facts = build_host.read_facts(job.key.built_for.python, job.cuda)
    require_builder(job.key, job.cuda, build_host.name, facts)
    home = facts.cuda_home if recipe.compiled else None
    is_there = home is not None and home["release"] == job.cuda
    by_wheels = bool(job.cuda) and recipe.compiled and not is_there and has_wheels(job.cuda)
    sdist, wheels = _fetch_inputs(job, toolkit().requirements(job.cuda) if by_wheels else [])
    archive = None if facts.python else interpreter()
    major = job.cuda.partition(".")[0]
    request = BuildRequest(
        sdist=sdist.name,
        lock=lock_text(wheels),
        python=facts.python,
        archive=archive.name if archive else None,
        cuda=job.cuda if recipe.compiled else "",
        cuda_home=home["home"] if home and not by_wheels else None,
        links=tuple((name, target.format(major=major)) for name, target in toolkit().links) if by_wheels else (),
        environment=recipe.variables(job.key),
        memory_gib=recipe.memory_gib,
    )
    uv = stage_uv(f"{job.target.machine}-manylinux_2_{job.target.glibc_minor}", job.sources.settings, job.store)
    files = [job.store.staged(job.store.path(wheel.sha256, wheel.name), "wheel") for wheel in wheels]
    files += [job.store.staged(sdist, "source"), uv, *([archive] if archive else [])]
    # The name stays the same when a build can be resumed, and changes with anything that changes the result.
    parts = json.dumps([sdist.parent.name, request.lock, request.cuda_home, request.environment])
    name = f"{job.key.name}-{job.key.version}-{hashlib.sha256(parts.encode()).hexdigest()[:12]}"

    def report(text: str) -> None:
        if job.progress:
            job.progress(f"{job.key.name} on {build_host.name}: {text}", 0, 0)

    try:
        result = build_host.build(name, request, files, report)
        built = _keep(job, build_host, recipe, result)
    finally:
        # A lost connection is the error to report, not the unreadable log.
        with contextlib.suppress(TransportError):
            write_atomically(BuildCache(job.store).log_path(job.key), build_host.log(name))
    build_host.clear(name)
    return built


def _keep(job: BuildJob, build_host: BuildHost, recipe: Recipe, result: BuildResult) -> BuiltWheel:
    """Fetch the wheel into the wheelhouse, check it against its key, and record it."""
    path = job.store.add_content(build_host.fetch(result.wheel), Path(result.wheel).name, result.sha256)
    extension = read_extension(path)
    wrong = find_mismatches(extension, job.key, torch=job.torch_path, compiled=recipe.compiled)
    if wrong:
        raise StageError(
            f"the wheel that {build_host.name} built does not match the request: {'; '.join(wrong)}",
            hint="a build host with an older C library builds wheels for older hosts; the log has the compiler flags",
        )
    oldest = extension.glibc or job.key.built_for.glibc
    built = BuiltWheel(
        key=job.key.model_copy(update={"built_for": job.key.built_for.model_copy(update={"glibc": oldest})}),
        torch=job.torch.version,
        name=path.name,
        size=path.stat().st_size,
        codes=tuple(sorted(extension.codes)),
        builder=build_host.name,
        built_at=utc_now(),
        log=str(BuildCache(job.store).log_path(job.key)),
        **result.model_dump(exclude={"wheel"}),
    )
    BuildCache(job.store).put(built)
    return built


def require_builder(key: BuildKey, cuda: str, builder: str, facts: BuilderFacts) -> None:
    """Check that a build host can build a key. Raises StageError where it lacks a requirement."""
    recipe, wants = recipe_for(key), key.built_for.machine
    if facts.machine != wants:
        raise StageError(
            f"{builder} is {facts.machine}, and the wheel is for {wants}",
            hint=f"use a build host with that processor: firstlight_builder: HOST ({wants})",
        )
    if facts.glibc is None:
        raise StageError(
            f"{builder} has no glibc, so its builds do not run on the fleet", hint="use another build host"
        )
    if not recipe.compiled:
        return
    if facts.compiler is None:
        raise StageError(f"{builder} has no C++ compiler", hint="install g++ there (Debian: build-essential)")
    if key.platform == "rocm" and facts.hipcc is None:
        raise StageError(f"{builder} has no hipcc", hint="install ROCm's compiler there, or use another build host")
    if cuda and facts.cuda_home is None and not has_wheels(cuda):
        raise StageError(
            f"{builder} has no nvcc of CUDA {cuda}, which is published as wheels only from CUDA {toolkit().since} on",
            hint=f"install the CUDA {cuda} toolkit there, or use a build host that has it",
        )


def has_wheels(cuda: str) -> bool:
    """Check whether the compiler of a CUDA release is published as wheels."""
    return int(cuda.partition(".")[0]) >= toolkit().since


def _fetch_inputs(job: BuildJob, extra: Iterable[str]) -> tuple[Path, list[LockedWheel]]:
    """Fetch the sdist of a job and its build requirements; return its path, and the wheels of the build environment.

    The environment has the Stack's own torch, from the same file, and torch's requirements at the Stack's versions. So
    the wheel is built against exactly the torch that it runs with.
    """
    sdist = _find_sdist(job)
    path = fetch_wheels([sdist], job.sources, job.store, progress=job.progress)[sdist.sha256]
    request = SolveRequest(
        job.target,
        (f"{TORCH} @ {job.torch_path.as_uri()}", *sorted({*tools(), *build_requirements(path), *extra})),
        constraints=tuple(f"{wheel.distribution}=={wheel.version}" for wheel in job.stack if wheel is not job.torch),
    )
    wheels = choose_wheels(solve(request, job.sources.variables), job.target, own=[TORCH])
    fetch_wheels(wheels, job.sources, job.store, progress=job.progress)
    return path, [job.torch, *wheels]


def _find_sdist(job: BuildJob) -> LockedWheel:
    """Locate the sdist of a job on the user's indexes. Its code is not run, so its requirements are unknown."""
    name, requirement = job.key.name, f"{job.key.name}=={job.key.version}"
    pylock = solve(SolveRequest(job.target, (requirement,), sources=(name,)), job.sources.variables)
    packages: list[dict[str, Any]] = tomllib.loads(pylock)["packages"]
    package = next(entry for entry in packages if canonicalize_name(entry["name"]) == canonicalize_name(name))
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
    """Read the build requirements in an sdist's pyproject.toml, without torch, which is fixed. Raises StageError."""
    try:
        with tarfile.open(sdist) as packed:
            member = next((entry for entry in packed if re.fullmatch(r"[^/]+/pyproject\.toml", entry.name)), None)
            file = packed.extractfile(member) if member else None
            table = tomllib.loads(file.read().decode()) if file else {}
            needs = [Requirement(text) for text in table.get("build-system", {}).get("requires", [])]
    except (tarfile.TarError, EOFError, zlib.error, ValueError, TypeError, AttributeError) as error:
        problem = f"`{sdist.name}` is not a valid sdist: {error}"
        raise StageError(problem, hint="use another release or index") from error
    return [str(need) for need in needs if canonicalize_name(need.name) != TORCH]
