"""The separately installed package of a Stack (flash-attn): the interface of its provider."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from provision.catalog.index.sources import IndexSources
from provision.core.errors import StageError
from provision.core.models.stack import FlashAttnPackage, FlashAttnPlan, Stack
from provision.phases.stage.download import Progress
from provision.phases.stage.lock_file import LockedWheel


class Packager(Protocol):
    """Provides the package that a Stack names: a published wheel, or one that is built."""

    def requires(self, package: FlashAttnPackage) -> Sequence[str]:
        """Return what the package needs at run time besides torch."""

    def provide(
        self,
        stack: Stack,
        package: FlashAttnPackage,
        wheels: Sequence[LockedWheel],
        sources: IndexSources,
        progress: Progress | None,
    ) -> LockedWheel:
        """Put the wheel of the package into the wheelhouse. The `url` of a built wheel is empty.

        Raises:
            StageError: The wheel cannot be had, or does not fit the Stack.
        """


class NoPackager:
    """A packager without packages, for callers that stage Stacks without the wheel builder."""

    def requires(self, package: FlashAttnPackage) -> Sequence[str]:
        """Return nothing."""
        del package
        return ()

    def provide(
        self,
        stack: Stack,
        package: FlashAttnPackage,
        wheels: Sequence[LockedWheel],
        sources: IndexSources,
        progress: Progress | None,
    ) -> LockedWheel:
        """Refuse every package.

        Raises:
            StageError: Always.
        """
        del stack, wheels, sources, progress
        raise StageError(f"flash-attn {package.version} has no provider here")


def without_package(stack: Stack) -> Stack:
    """Return the Stack without its package: with the kernels in vLLM's wheel, or with none."""
    plan = stack.flash_attn
    bundled = plan.provider == "bundled"
    left = plan.model_copy(update={"package": None}) if bundled else FlashAttnPlan(provider="none")
    return stack.model_copy(update={"flash_attn": left})
