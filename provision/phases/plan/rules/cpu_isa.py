"""The instruction set of the processor, for CPU builds."""

from collections.abc import Iterator

from provision.catalog import catalog
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, reject, rule


@rule(
    "The processor supports the instructions that the CPU build needs.", reads=("cpu.isa",), order=30, cause="cpu-isa"
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    if option.build is None or not option.build.isa:
        return
    ranks = {level.name: level.rank for level in catalog().levels if level.machine == (profile.machine or "x86_64")}
    floor = next((name for name in option.build.isa if name in ranks), None)
    if floor is None:
        return
    if profile.isa is None:
        yield assume(f"the processor supports {floor}")
    elif ranks.get(profile.isa, 0) < ranks[floor]:
        text = f"the build needs {floor}; the processor supports {profile.isa}"
        yield reject(text, source=option.build.source, isa=profile.isa, needed=floor)
    else:
        yield accept(
            f"the processor supports {profile.isa}; the build needs {floor}",
            source=option.build.source,
            isa=profile.isa,
        )
