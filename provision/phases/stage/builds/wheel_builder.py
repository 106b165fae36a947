"""The room's door: the package that a Stack asks for, as a locked wheel that was held against the Stack's torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from packaging.utils import canonicalize_name

from provision.catalog.index.sources import Sources
from provision.catalog.versions import cuda_of
from provision.core.errors import StageError
from provision.core.models.stack import FlashAttnPackage, Stack
from provision.core.models.staged import StagedFile
from provision.fleet.ssh.session import Session
from provision.phases.stage.builds.build import Job, Place, wheel_builder
from provision.phases.stage.builds.build_cache import BuildCache, Forged
from provision.phases.stage.builds.build_host import BuildHost
from provision.phases.stage.builds.build_key import Key
from provision.phases.stage.builds.extension import read_extension
from provision.phases.stage.builds.published import fetch_published
from provision.phases.stage.builds.recipes import recipe_for
from provision.phases.stage.builds.wheel_check import faults, unmet
from provision.phases.stage.download import Progress
from provision.phases.stage.lock import Locked
from provision.phases.stage.platforms import Target
from provision.phases.stage.solve_request import target_of
from provision.phases.stage.wheelhouse import Store

CONTROLLER = "controller"


@dataclass(frozen=True)
class WheelBuilder:
    """Provides packages. `fleet` holds every key that this run asks for, so that one build serves all classes that it can."""

    store: Store
    open_builder: Callable[[str], Session]
    """A session with a builder by name. Raises StageError for a name that nobody has."""
    python: str
    """The interpreter that runs the build program on the controller."""
    interpreter: Callable[[Target], StagedFile]
    """A managed Python for a builder that has none with headers."""
    fleet: tuple[Key, ...] = ()

    def requires(self, package: FlashAttnPackage) -> Sequence[str]:
        """What the package needs at run time besides torch; it is solved with the Stack."""
        return recipe_for(Key.of(package)).requires

    def provide(
        self,
        stack: Stack,
        package: FlashAttnPackage,
        wheels: Sequence[Locked],
        sources: Sources,
        progress: Progress | None,
    ) -> Locked:
        """The package's wheel, in the wheelhouse.

        Raises StageError when it cannot be had, or is not for this torch, ABI, Python, C library and cards.
        """
        key = Key.of(package)
        recipe = recipe_for(key)
        torch = next(wheel for wheel in wheels if canonicalize_name(wheel.distribution) == "torch")
        if package.source == "wheel":
            path = fetch_published(package, sources, self.store)
        else:
            cuda = cuda_of(stack.torch.variant) or ""
            job = Job(key, wheels, target_of(stack), cuda, sources, self.store, progress)
            forged = self.forged(job, package.builder or CONTROLLER)
            path = self.store.path(forged.sha256, forged.name)
        extension = read_extension(path, published_as=package.file if package.source == "wheel" else None)
        wrong = faults(extension, key, torch=self.store.path(torch.sha256, torch.name), compiled=recipe.compiled)
        locked: dict[str, str] = {canonicalize_name(wheel.distribution): wheel.version for wheel in wheels}
        wrong += unmet(extension, locked, target_of(stack))
        if wrong:
            raise StageError(
                f"`{path.name}` does not fit this Stack: {'; '.join(wrong)}",
                hint="name a builder, which builds it for exactly this Stack: firstlight_builder: controller",
            )
        return Locked(extension.name, extension.own_version, path.name, path.parent.name, "", path.stat().st_size)

    def forged(self, job: Job, builder: str) -> Forged:
        """From the shelf, else built now: for the cards of all keys of the fleet that one build can serve.

        Raises StageError, TransportError.
        """
        build_cache = BuildCache(self.store)
        if found := build_cache.find(job.key):
            return found
        mates = [key for key in self.fleet if recipe_for(job.key).holds(key)]
        wide = replace(job, key=job.key.covering(mates))
        with closing(self.open_builder(builder)) as session:
            return wheel_builder(wide, self.place(builder, session), lambda: self.interpreter(job.target))

    def place(self, builder: str, session: Session) -> Place:
        """How a builder is set up: where its builds lie, and what runs the program there."""
        if builder == CONTROLLER:
            return Place(builder, BuildHost(session, str(self.store.root / "builds"), python=self.python))
        home = session.run('printf %s "${XDG_CACHE_HOME:-$HOME/.cache}"').stdout
        return Place(builder, BuildHost(session, f"{home}/firstlight/builds"))
