"""The requirements of a build key on its build host: processor, C library, compilers. Checked before anything is fetched."""

from __future__ import annotations

from provision.core.errors import StageError
from provision.phases.stage.builds.build_host import BuilderFacts
from provision.phases.stage.builds.build_key import BuildKey
from provision.phases.stage.builds.recipes import recipe_for, toolkit


def require_builder(key: BuildKey, cuda: str, builder: str, facts: BuilderFacts) -> None:
    """Check that a build host can build a key.

    Args:
        cuda: Release of the toolkit, `13.0`; empty for ROCm.
        builder: Name of the build host, for messages.

    Raises:
        StageError: The build host lacks a requirement.
    """
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
