"""The host's ROCm."""

from collections.abc import Iterator

from provision.phases.plan import rocm
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, reject, rule


@rule("The build runs on the host's ROCm.", reads=("amd.rocm_version", "settings.driver"), order=90)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    if profile.platform != "rocm":
        return
    row = rocm.userspace(option)
    if profile.rocm is None:
        yield assume(f"the host's ROCm suits {option.variant} builds")
    elif row is not None:
        text = f"the build needs ROCm >={row.minimum},<{row.below}; the host has {profile.rocm}"
        fits = rocm.fits(row, profile.rocm)
        if not fits and profile.policy.driver == "upgrade" and rocm.can_upgrade(profile):
            fits = rocm.fits(row, rocm.offered())
            text += f", which `--driver upgrade` upgrades to {rocm.offered()}"
        yield (accept if fits else reject)(text, source=row.source, rocm=profile.rocm)
    else:
        yield accept(
            f"torch's {option.torch_variant} variant is for the host's ROCm {profile.rocm}",
            source=option.torch.source,
            rocm=profile.rocm,
        )
