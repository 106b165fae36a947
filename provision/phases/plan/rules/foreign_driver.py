"""In a container or under WSL the driver is that of the machine below: it must be visible, and it stays."""

from collections.abc import Iterator

from provision.phases.plan import driver
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import HostRule, Verdict, accept, assume, reject, warn

SOURCE = "docs.nvidia.com/cuda/wsl-user-guide: no Linux driver is to be installed within WSL; github.com/NVIDIA/nvidia-container-toolkit"


def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    if profile.platform != "cuda":
        return
    whose = profile.foreign_driver
    facts = {"container": profile.container, "wsl": profile.wsl}
    if whose and profile.driver_absent:
        text = f"this is a {whose} without a visible NVIDIA driver, and a driver cannot be installed from inside"
        yield reject(text, source=SOURCE, **facts, driver=None)
    elif whose and profile.policy.driver == "pinned" and not driver.is_pinned(profile):
        wanted = profile.policy.driver_setting
        text = f"`driver: {wanted}` is asked for; in a {whose} the driver is left as it is, at {profile.driver or 'an unknown version'}"
        yield warn(text, source=SOURCE, **facts, driver=profile.driver, requested=wanted)
    elif whose:
        yield accept(f"in a {whose} the driver is left as it is", source=SOURCE, **facts)
    elif not profile.container_known:
        yield assume("the host is no container")


RULE = HostRule(
    id="foreign-driver",
    statement="In a container or under WSL the driver is that of the machine below, and stays.",
    reads=("container", "wsl", "nvidia", "settings.driver"),
    evaluate=evaluate,
    order=50,
)
