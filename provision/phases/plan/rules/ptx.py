"""The lowest driver for PTX and for code that is compiled on the host."""

from collections.abc import Iterator

from provision.phases.plan import driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.driver_verdicts import reached
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, rule


@rule(
    "If an extension that is launched has only PTX for a GPU, or is compiled on the host, the driver is as new as the toolkit.",
    reads=("nvidia.driver_version", "nvidia.gpus"),
    order=170,
    cause="ptx-toolchain",
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    plan = driver.choose(option, profile)
    if plan is not None:
        yield from reached("ptx", option, profile, plan)
