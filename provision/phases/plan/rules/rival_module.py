"""nouveau and nova hold cards that NVIDIA's driver is to have."""

from collections.abc import Iterator

from provision.phases.plan import driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Rule, Verdict, accept, warn

SOURCE = "github.com/NVIDIA/ansible-role-nvidia-driver issue 51; docs.nvidia.com driver-installation-guide, disabling nouveau"


def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    plan = driver.choose(option, profile)
    if plan is None or profile.foreign_driver:
        return
    if profile.environment.rivals:
        names = " and ".join(profile.environment.rivals)
        text = f"{names} is loaded and may hold the cards: it is to be kept from loading, in the initramfs too, before a reboot"
        yield warn(text, source=SOURCE, modules=list(profile.environment.rivals), action=plan.action)
    elif plan.action == "install":
        yield accept("no other driver holds the cards", source=SOURCE, modules=[])


RULE = Rule(
    id="rival-module",
    statement="No other kernel module holds the cards.",
    reads=("kernel_modules",),
    evaluate=evaluate,
    order=240,
)
