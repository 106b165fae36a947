"""nouveau and nova hold cards that NVIDIA's driver is to have."""

from collections.abc import Iterator

from provision.phases.plan import driver
from provision.phases.plan.build_option import Option
from provision.phases.plan.host_profile import View
from provision.phases.plan.rules.base import Rule, Verdict, accept, warn

SOURCE = "github.com/NVIDIA/ansible-role-nvidia-driver issue 51; docs.nvidia.com driver-installation-guide, disabling nouveau"


def judge(option: Option, view: View) -> Iterator[Verdict]:
    plan = driver.choose(option, view)
    if plan is None or view.foreign_driver:
        return
    if view.around.rivals:
        names = " and ".join(view.around.rivals)
        text = f"{names} is loaded and may hold the cards: it is to be kept from loading, in the initramfs too, before a reboot"
        yield warn(text, source=SOURCE, modules=list(view.around.rivals), action=plan.action)
    elif plan.action == "install":
        yield accept("no other driver holds the cards", source=SOURCE, modules=[])


RULE = Rule("rival-module", "No other kernel module holds the cards.", ("kernel_modules",), judge)
