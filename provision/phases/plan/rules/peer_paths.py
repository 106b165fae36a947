"""IOMMU and ACS, which can slow down writes between cards."""

from collections.abc import Iterator

from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, rule, warn

SOURCE = "NVIDIA NCCL user guide, troubleshooting: PCI Access Control Services (ACS), IO virtualization"


@rule("IOMMU and ACS do not redirect writes between GPUs.", reads=("topology", "virtualization"), order=220)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    del option
    paths = profile.environment.peer_paths
    if len(profile.serving) < 2 or paths is None:
        return
    if paths:
        text = (
            f"{'; '.join(paths)}: such writes are slow, or hang. Boot with `iommu=pt`, and disable ACS in the firmware"
        )
        yield warn(text, source=SOURCE, paths=list(paths))
    else:
        yield accept("neither IOMMU nor ACS is active between the GPUs", source=SOURCE)
