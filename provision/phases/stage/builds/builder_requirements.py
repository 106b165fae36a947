"""Whether a machine can build a key: its processor, C library and compilers, before anything is fetched for it."""

from __future__ import annotations

from provision.core.errors import StageError
from provision.phases.stage.builds.build_host import Survey
from provision.phases.stage.builds.build_key import Key
from provision.phases.stage.builds.recipes import recipe_for, toolkit


def require(key: Key, cuda: str, builder: str, survey: Survey) -> None:
    """Raises StageError for what the builder lacks. `cuda` is the toolkit's release, `13.0`; empty for ROCm."""
    recipe, wants = recipe_for(key), key.built_for.machine
    if survey.machine != wants:
        raise StageError(
            f"{builder} is {survey.machine}, and the wheel is for {wants}",
            hint=f"name a builder with that processor: firstlight_builder: HOST ({wants})",
        )
    if survey.glibc is None:
        raise StageError(
            f"{builder} has no glibc: what is built there runs on no host of this fleet", hint="name another builder"
        )
    if not recipe.compiled:
        return
    if survey.compiler is None:
        raise StageError(f"{builder} has no C++ compiler", hint="install g++ there (Debian: build-essential)")
    if key.platform == "rocm" and survey.hipcc is None:
        raise StageError(f"{builder} has no hipcc", hint="install ROCm's compiler there, or name another builder")
    if cuda and survey.cuda_home is None and not has_wheels(cuda):
        raise StageError(
            f"{builder} has no nvcc of CUDA {cuda}, and pip's wheels hold one from CUDA {toolkit().since} on only",
            hint=f"install the CUDA {cuda} toolkit there, or name a builder that has it",
        )


def has_wheels(cuda: str) -> bool:
    """Whether a CUDA release's compiler comes as wheels."""
    return int(cuda.partition(".")[0]) >= toolkit().since
