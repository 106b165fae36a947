"""The host's ROCm."""

from collections.abc import Iterator

from provision.catalog import catalog
from provision.catalog.versions import numbers
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, reject, rule


@rule("The build runs on the host's ROCm.", reads=("amd.rocm_version",), order=90)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    if profile.platform != "rocm":
        return
    row = next((row for row in catalog().userspaces if row.variant == option.variant), None)
    if profile.rocm is None:
        yield assume(f"the host has a ROCm for {option.variant} builds")
    elif option.build is not None and row is not None:
        text = f"the build needs ROCm >={row.minimum},<{row.below}; the host has {profile.rocm}"
        fits = numbers(row.minimum) <= numbers(profile.rocm)[:2] < numbers(row.below)
        yield (accept if fits else reject)(text, source=row.source, rocm=profile.rocm)
    else:
        yield accept(
            f"torch's {option.variant} variant is for the host's ROCm {profile.rocm}",
            source=option.torch.source,
            rocm=profile.rocm,
        )
