"""The lowest driver for the candidate's CUDA major."""

from collections.abc import Iterable, Iterator

from provision.phases.plan import driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.driver_verdicts import reached
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, rule

_DOING = {"keep": "is kept", "install": "will be installed", "upgrade": "will replace the present one"}


@rule(
    "The driver runs builds of this CUDA major.",
    reads=("nvidia.driver_version", "settings.driver"),
    order=40,
    cause="driver-too-old",
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterable[Verdict]:
    plan = driver.choose(option, profile)
    return (
        (
            *reached("driver-floor", option, profile, plan),
            *_there(plan.version, plan.action, driver.least_version(option, profile.launch)),
        )
        if plan
        else ()
    )


def _there(version: str | None, action: str, least: str) -> Iterator[Verdict]:
    if version is None:
        yield assume(f"the NVIDIA driver is {least} or newer")
    else:
        yield accept(f"driver {version} {_DOING[action]}", driver=version, action=action)
