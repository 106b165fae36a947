"""Code that is there as PTX only, or is compiled on the host, needs a driver of the toolkit's own branch or newer."""

from collections.abc import Iterator

from provision.phases.plan import driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rules.base import Rule, Verdict
from provision.phases.plan.rules.driver_reach import reached


def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    plan = driver.choose(option, profile)
    if plan is not None:
        yield from reached("ptx", option, profile, plan)


RULE = Rule(
    "ptx",
    "Where an extension that this Stack launches has only PTX for a card, or is compiled on the host, the driver is as new as the toolkit.",
    ("nvidia.driver_version", "nvidia.gpus"),
    evaluate,
)
