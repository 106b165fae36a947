"""One build, from a key to a wheel on the shelf that was held against that key."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from provision.catalog.index.sources import Sources
from provision.core.errors import StageError, TransportError
from provision.core.models.staged import StagedFile
from provision.core.run_folder import utc_now, write_atomically
from provision.phases.stage.builds.build_cache import BuildCache, Forged
from provision.phases.stage.builds.build_host import BuildHost, Built, Order
from provision.phases.stage.builds.build_inputs import Ingredients, gather
from provision.phases.stage.builds.build_key import Key
from provision.phases.stage.builds.builder_requirements import has_wheels, require
from provision.phases.stage.builds.extension import read_extension
from provision.phases.stage.builds.recipes import Recipe, recipe_for, toolkit
from provision.phases.stage.builds.wheel_check import faults
from provision.phases.stage.download import Progress
from provision.phases.stage.host_uv import stage_uv
from provision.phases.stage.lock import Locked, lock_text
from provision.phases.stage.platforms import Target
from provision.phases.stage.wheelhouse import Store


@dataclass(frozen=True)
class Job:
    """A build to be done: for whom, beside which locked wheels, with which CUDA."""

    key: Key
    stack: Sequence[Locked]
    """The Stack's locked wheels, torch among them, in the wheelhouse."""
    target: Target
    cuda: str
    """Release of the toolkit, `13.0`; empty for ROCm."""
    sources: Sources
    store: Store
    progress: Progress | None = None

    @property
    def torch(self) -> Locked:
        """The torch that the wheel will meet."""
        return next(wheel for wheel in self.stack if wheel.distribution == "torch")

    def torch_path(self) -> Path:
        """Its wheel in the wheelhouse."""
        return self.store.path(self.torch.sha256, self.torch.name)


@dataclass(frozen=True)
class Place:
    """A builder by its name, and how its bench is set up."""

    name: str
    build_host: BuildHost


def wheel_builder(job: Job, place: Place, interpreter: Callable[[], StagedFile]) -> Forged:
    """Build a key's wheel and put it on the shelf.

    `interpreter` fetches a managed Python, called only where the builder has none that fits. Raises StageError when the builder lacks
    something, when the build fails, or when the wheel is not what its key says; TransportError.
    """
    recipe = recipe_for(job.key)
    survey = place.build_host.survey(job.key.built_for.python, job.cuda)
    require(job.key, job.cuda, place.name, survey)
    home = survey.cuda_home if recipe.compiled else None
    by_wheels = (
        bool(job.cuda) and recipe.compiled and (home is None or home["release"] != job.cuda) and has_wheels(job.cuda)
    )
    extra = toolkit().requirements(job.cuda) if by_wheels else []
    ingredients = gather(
        f"{job.key.name}=={job.key.version}",
        job.stack,
        job.target,
        job.sources,
        job.store,
        extra=extra,
        progress=job.progress,
    )
    archive = None if survey.python else interpreter()
    major = job.cuda.partition(".")[0]
    order = Order(
        sdist=ingredients.sdist.name,
        lock=lock_text(ingredients.wheels),
        python=survey.python,
        archive=archive.name if archive else None,
        cuda=job.cuda if recipe.compiled else "",
        cuda_home=home["home"] if home and not by_wheels else None,
        links=tuple((name, target.format(major=major)) for name, target in toolkit().links) if by_wheels else (),
        environment=recipe.variables(job.key),
        memory_gib=recipe.memory_gib,
    )
    files = [*_files(ingredients, job), *([archive] if archive else [])]
    name = _folder_name(job.key, ingredients.sdist.parent.name, order)

    def told(text: str) -> None:
        if job.progress:
            job.progress(f"{job.key.name} on {place.name}: {text}", 0, 0)

    try:
        built = place.build_host.build(name, order, files, told)
        forged = _keep(job, place, recipe, built)
    finally:
        # where the builder is gone, that is what is to be told, not that its log is gone with it
        with contextlib.suppress(TransportError):
            write_atomically(BuildCache(job.store).log_path(job.key), place.build_host.log(name))
    place.build_host.clear(name)
    return forged


def _keep(job: Job, place: Place, recipe: Recipe, built: Built) -> Forged:
    """Bring the wheel into the wheelhouse, hold it against its key, and note it."""
    with tempfile.TemporaryDirectory(prefix="firstlight-") as folder:
        file = Path(folder) / Path(built.wheel).name
        file.write_bytes(place.build_host.fetch(built.wheel))
        path = job.store.add(file, sha256=built.sha256)
    extension = read_extension(path)
    wrong = faults(extension, job.key, torch=job.torch_path(), compiled=recipe.compiled)
    if wrong:
        raise StageError(
            f"the wheel that {place.name} built is not what was asked for: {'; '.join(wrong)}",
            hint="a builder with an older C library makes wheels for older hosts; the log names the compiler's flags",
        )
    oldest = extension.glibc or job.key.built_for.glibc
    forged = Forged(
        key=job.key.model_copy(update={"built_for": job.key.built_for.model_copy(update={"glibc": oldest})}),
        torch=job.torch.version,
        name=path.name,
        sha256=built.sha256,
        size=path.stat().st_size,
        codes=tuple(sorted(extension.codes)),
        builder=place.name,
        built_at=utc_now(),
        jobs=built.jobs,
        cpu_seconds=built.cpu_seconds,
        largest_process_gib=built.largest_process_gib,
        nvcc=built.nvcc,
        log=str(BuildCache(job.store).log_path(job.key)),
    )
    BuildCache(job.store).put(forged)
    return forged


def _files(ingredients: Ingredients, job: Job) -> Iterable[StagedFile]:
    yield job.store.staged(ingredients.sdist, "source")
    for wheel in ingredients.wheels:
        yield job.store.staged(job.store.path(wheel.sha256, wheel.name), "wheel")
    yield stage_uv(f"{job.target.machine}-manylinux_2_{job.target.glibc_minor}", job.sources.settings, job.store)


def _folder_name(key: Key, sdist: str, order: Order) -> str:
    """The same for what can be taken up, another one for whatever changes what is compiled."""
    digest = hashlib.sha256(json.dumps([sdist, order.lock, order.cuda_home, order.environment]).encode()).hexdigest()
    return f"{key.name}-{key.version}-{digest[:12]}"
