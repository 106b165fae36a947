"""GPU code for every card in all that the Stack launches."""

from collections.abc import Iterable, Iterator

from provision.catalog import catalog
from provision.catalog.versions import numbers
from provision.phases.plan import attention, driver, torch_pair
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.gpu_code import Coverage, coverage, written
from provision.phases.plan.host_profile import HostProfile, Launch
from provision.phases.plan.rule import Verdict, accept, assume, reject, rule


@rule(
    "Every extension that is launched has code for every GPU.",
    reads=("nvidia.gpus",),
    order=150,
    cause="arch-not-in-build",
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterable[Verdict]:
    return _evaluate(option, profile.launch) if profile.platform == "cuda" else ()


def _evaluate(option: BuildOption, launch: Launch) -> Iterator[Verdict]:
    if torch_pair.torch_codes(option.torch.version, option.torch_variant) is None:
        yield assume(f"torch {option.torch.version}+{option.torch_variant} contains code for the GPUs")
    for name, capability in launch.attention.kinds:
        if capability is None:
            yield assume(f"the build contains code for {name}, whose compute capability is unknown")
            continue
        for part in driver.launched(option, launch):
            if capability in part.capabilities:
                yield from _part(part, name, capability)
        yield from _compiled(option, launch, name, capability)


def _compiled(option: BuildOption, launch: Launch, name: str, capability: str) -> Iterator[Verdict]:
    """Yield the extensions that are compiled on the host."""
    compilers = {row.extension: row for row in catalog().flash_compilers}
    for extension, using in attention.flash_extensions(option, launch):
        if extension in compilers and capability in using:
            row = compilers[extension]
            text = f"{row.name} compiles FlashAttention {extension[-1]} for {name} ({capability}) on the host at its first run"
            yield accept(text, source=row.source, compute_capability=capability)


def _part(part: driver.LaunchedCode, name: str, capability: str) -> Iterator[Verdict]:
    found = coverage(part.codes, capability)
    if found is Coverage.NONE:
        text = (
            f"{part.name} has no code for {name} (compute capability {capability}): it contains {written(part.codes)}"
        )
        yield reject(text, source=part.source, compute_capability=capability, codes=list(part.codes))
    elif found is Coverage.NATIVE:
        if not _exact(part.codes, capability):
            yield assume(
                f"{name} ({capability}) also runs the native code that {part.name} has for an earlier GPU of its family"
            )
        yield accept(
            f"{part.name} has native code for {name} ({capability})", source=part.source, compute_capability=capability
        )


def _exact(codes: tuple[str, ...], capability: str) -> bool:
    """Return whether there is code for exactly this capability. From 9.0 on, a suffix that the catalog lacks may bind code to one card."""
    major, minor = numbers(capability)
    return major < 9 or f"{major}{minor}" in codes
