"""A driver that this host cannot change: in a container, and under WSL."""

from collections.abc import Iterator

from provision.phases.plan import driver
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, host_rule, reject, warn

SOURCE = "docs.nvidia.com/cuda/wsl-user-guide: no Linux driver is to be installed within WSL; github.com/NVIDIA/nvidia-container-toolkit"


@host_rule(
    "In a container and under WSL the driver belongs to the underlying machine and stays unchanged.",
    reads=("container", "wsl", "nvidia", "settings.driver"),
    order=50,
)
def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    if profile.platform != "cuda":
        return
    owner = profile.foreign_driver
    facts = {"container": profile.container, "wsl": profile.wsl}
    if owner and profile.driver_absent:
        text = f"this is {owner} without a visible NVIDIA driver, and a driver cannot be installed from inside it"
        yield reject(text, source=SOURCE, **facts, driver=None)
    elif owner and profile.policy.driver == "pinned" and not driver.is_pinned(profile):
        wanted = profile.policy.driver_setting
        text = f"`--driver {wanted}` has no effect in {owner}: the driver stays at {profile.driver or 'an unknown version'}"
        yield warn(text, source=SOURCE, **facts, driver=profile.driver, requested=wanted)
    elif owner:
        yield accept(f"in {owner} the driver stays unchanged", source=SOURCE, **facts)
    elif not profile.container_known:
        yield assume("the host is not a container")
