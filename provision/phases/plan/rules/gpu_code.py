"""Everything that this Stack launches has code for every card."""

from collections.abc import Iterable, Iterator

from provision.catalog import catalog
from provision.catalog.versions import numbers
from provision.phases.plan import attention, driver, torch_pair
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.gpu_code import Coverage, coverage, written
from provision.phases.plan.host_profile import HostProfile, Launch
from provision.phases.plan.rule import Rule, Verdict, accept, assume, memoized, reject


def evaluate(option: BuildOption, profile: HostProfile) -> Iterable[Verdict]:
    return _evaluate(option, profile.launch) if profile.platform == "cuda" else ()


@memoized
def _evaluate(option: BuildOption, launch: Launch) -> Iterator[Verdict]:
    if torch_pair.torch_codes(option.torch.version, option.torch_variant) is None:
        yield assume(f"torch {option.torch.version}+{option.torch_variant} holds code for the cards")
    for name, capability in launch.attention.kinds:
        if capability is None:
            yield assume(f"{name} can run what the build holds: its compute capability is not known")
            continue
        for part in driver.launched(option, launch):
            if capability in part.capabilities:
                yield from _part(part, name, capability)
        yield from _compiled(option, launch, name, capability)


def _compiled(option: BuildOption, launch: Launch, name: str, capability: str) -> Iterator[Verdict]:
    """An extension that is in the wheel as a program has its code made on the host."""
    makers = {row.extension: row for row in catalog().flash_compilers}
    for extension, using in attention.flash_extensions(option, launch):
        if extension in makers and capability in using:
            row = makers[extension]
            text = f"{row.name} compiles FlashAttention {extension[-1]} for {name} ({capability}) on the host when it first runs"
            yield accept(text, source=row.source, compute_capability=capability)


def _part(part: driver.LaunchedCode, name: str, capability: str) -> Iterator[Verdict]:
    found = coverage(part.codes, capability)
    if found is Coverage.NONE:
        text = f"{part.name} has no code for {name} (compute capability {capability}): it holds {written(part.codes)}"
        yield reject(text, source=part.source, compute_capability=capability, codes=list(part.codes))
    elif found is Coverage.NATIVE:
        if not _exact(part.codes, capability):
            yield assume(
                f"the native code in {part.name} for an earlier card of its family also runs on {name} ({capability})"
            )
        yield accept(
            f"{part.name} has native code for {name} ({capability})", source=part.source, compute_capability=capability
        )


def _exact(codes: tuple[str, ...], capability: str) -> bool:
    """From 9.0 on, code may be bound to one card by a suffix that the scan of the wheels could not see."""
    major, minor = numbers(capability)
    return major < 9 or f"{major}{minor}" in codes


RULE = Rule(
    id="gpu-code",
    statement="Every extension that this Stack launches has code for every card.",
    reads=("nvidia.gpus",),
    evaluate=evaluate,
    order=150,
    cause="arch-not-in-build",
)
