"""The source of FlashInfer's kernels: compiled by the host's nvcc, prebuilt for exactly its version, or off."""

from provision.catalog import catalog
from provision.catalog.versions import between, cuda_of, numbers
from provision.core.models.stack import FlashInferPlan, KernelPackage
from provision.phases.plan import attention
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile, Toolkit
from provision.phases.plan.rule import Choice

BACKEND = "FLASHINFER"


def choose(option: BuildOption, profile: HostProfile) -> Choice[FlashInferPlan | None] | None:
    """Return the FlashInfer part of a candidate; None if no rule applies."""
    if option.release is None or profile.platform != "cuda":
        return None
    version = option.release.flashinfer
    served = attention.choose(option, profile).plan
    wanted = served is not None and served.backend == BACKEND
    if version is None:
        missing = f"vLLM {option.release.version} does not depend on FlashInfer"
        return Choice(None, missing, missing, source=option.release.source) if wanted else None
    kit = compiler(option, profile)
    if kit is not None:
        return Choice(
            FlashInferPlan(version=version, kernels="compiled", toolkit=kit.path),
            f"nvcc {kit.version} of the host compiles the kernels of FlashInfer {version} at first use",
        )
    if not wanted:
        return Choice(
            FlashInferPlan(version=version, kernels="off"),
            f"{_missing(option, profile)} for FlashInfer {version}: vLLM samples without it",
        )
    return _prebuilt(version, option, profile)


def compiler(option: BuildOption, profile: HostProfile) -> Toolkit | None:
    """Return the newest complete CUDA toolkit of the build's major whose nvcc accepts the host's gcc."""
    gcc = profile.environment.gcc
    for kit in reversed(of_major(option, profile)):
        if not kit.lacks and (gcc is None or gcc <= newest_gcc(kit.version)[0]):
            return kit
    return None


def of_major(option: BuildOption, profile: HostProfile) -> list[Toolkit]:
    """Return the host's CUDA toolkits of the build's major, by version, ascending."""
    major = numbers(cuda_of(option.variant) or "0")[0]
    return [kit for kit in profile.environment.toolkits or () if numbers(kit.version)[0] == major]


def _missing(option: BuildOption, profile: HostProfile) -> str:
    """Return why no toolkit of the host compiles FlashInfer's kernels."""
    short = next((kit for kit in reversed(of_major(option, profile)) if kit.lacks), None)
    if short is None:
        return "the host has no nvcc of the build's CUDA major"
    return f"{short.path} has no {' and no '.join(short.lacks)}"


def newest_gcc(toolkit: str) -> tuple[int, str]:
    """Return the newest gcc major that a toolkit's nvcc accepts, and the source. A minor without a row uses the row before it."""
    rows = sorted(catalog().host_compilers, key=lambda row: numbers(row.cuda))
    known = [row for row in rows if numbers(row.cuda) <= numbers(toolkit)]
    row = known[-1] if known else rows[0]
    return row.gcc, row.source


def _prebuilt(version: str, option: BuildOption, profile: HostProfile) -> Choice[FlashInferPlan | None]:
    cuda = cuda_of(option.variant) or "0"
    known = sorted(catalog().flashinfer_kernels, key=lambda row: row.distribution)
    rows = [row for row in known if between(version, row.since, row.until)]
    short = [row for row in rows if numbers(cuda) < numbers(row.minimum_cuda)]
    if short or len({row.distribution for row in rows}) < len({row.distribution for row in known}):
        row = (short or known)[0]
        if profile.environment.toolkits is None:
            needed = f"the host has an nvcc of CUDA {numbers(cuda)[0]} for the kernels of FlashInfer {version}"
            plan = FlashInferPlan(version=version, kernels="compiled")
            return Choice(plan, needed, assumed=needed, source=row.source)
        why = f"FlashInfer {version} compiles its kernels, and {_missing(option, profile)}"
        return Choice(None, why, f"{why}; prebuilt kernels need CUDA {row.minimum_cuda} or newer", source=row.source)
    packages = tuple(
        KernelPackage(
            distribution=row.distribution,
            version=version,
            index=row.index.format(variant=option.variant) if row.index else None,
        )
        for row in rows
    )
    names = " and ".join(f"{package.distribution} {version}" for package in packages)
    plan = FlashInferPlan(version=version, kernels="prebuilt", packages=packages)
    return Choice(plan, f"{names} contain the prebuilt kernels, in FlashInfer's version", source=rows[-1].source)
