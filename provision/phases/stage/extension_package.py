"""The separately installed package of a Stack: asked of whoever provides it, and left out, with the reason, where it may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from provision.core.errors import StageError
from provision.core.models.stack import FlashAttnPackage, FlashAttnPlan, Stack
from provision.phases.stage.download import Progress
from provision.phases.stage.lock import Locked

if TYPE_CHECKING:
    from provision.catalog.index.sources import Sources


class Packager(Protocol):
    """Provides the package that a Stack names: a published wheel, or one that it builds."""

    def requires(self, package: FlashAttnPackage) -> Sequence[str]:
        """What the package needs at run time besides torch."""

    def provide(
        self,
        stack: Stack,
        package: FlashAttnPackage,
        wheels: Sequence[Locked],
        sources: Sources,
        progress: Progress | None,
    ) -> Locked:
        """Its wheel in the wheelhouse, `url` empty where it was built. Raises StageError when it cannot be had or does not fit."""


class Nobody:
    """Provides no package: of callers that stage Stacks by themselves, without the pipeline's forge."""

    def requires(self, package: FlashAttnPackage) -> Sequence[str]:
        """Nothing."""
        del package
        return ()

    def provide(
        self,
        stack: Stack,
        package: FlashAttnPackage,
        wheels: Sequence[Locked],
        sources: Sources,
        progress: Progress | None,
    ) -> Locked:
        """Raises StageError."""
        del stack, wheels, sources, progress
        raise StageError(f"nobody here provides flash-attn {package.version}")


def without_package(stack: Stack) -> Stack:
    """A Stack whose package could not be had: the kernels in vLLM's wheel are left, or none."""
    plan = stack.flash_attn
    bundled = plan.provider == "bundled"
    left = plan.model_copy(update={"package": None}) if bundled else FlashAttnPlan(provider="none")
    return stack.model_copy(update={"flash_attn": left})
