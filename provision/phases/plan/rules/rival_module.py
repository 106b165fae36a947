"""Kernel modules other than NVIDIA's: nouveau and nova."""

from collections.abc import Iterator

from provision.phases.plan import driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, rule, warn

SOURCE = "github.com/NVIDIA/ansible-role-nvidia-driver issue 51; docs.nvidia.com driver-installation-guide, disabling nouveau"


@rule("No other kernel module uses the GPUs.", reads=("kernel_modules",), order=240)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    plan = driver.choose(option, profile)
    if plan is None or profile.foreign_driver:
        return
    if profile.environment.rivals:
        names = " and ".join(profile.environment.rivals)
        text = f"{names} is loaded and may use the GPUs: disable it, also in the initramfs, and reboot"
        yield warn(text, source=SOURCE, modules=list(profile.environment.rivals), action=plan.action)
    elif plan.action == "install":
        yield accept("no other driver uses the GPUs", source=SOURCE, modules=[])
