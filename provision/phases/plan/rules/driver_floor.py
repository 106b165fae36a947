"""The driver runs builds of the candidate's CUDA major."""

from collections.abc import Iterable, Iterator

from provision.phases.plan import driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rules.base import Rule, Verdict, accept, assume, memoized
from provision.phases.plan.rules.driver_reach import reached

_DOING = {"keep": "stays", "install": "will be installed", "upgrade": "will replace the one that is there"}


def evaluate(option: BuildOption, profile: HostProfile) -> Iterable[Verdict]:
    plan = driver.choose(option, profile)
    return (*reached("driver-floor", option, profile, plan), *_there(plan.version, plan.action)) if plan else ()


@memoized
def _there(version: str | None, action: str) -> Iterator[Verdict]:
    if version is None:
        yield assume("the NVIDIA driver is new enough for the chosen builds")
    else:
        yield accept(f"driver {version} {_DOING[action]}", driver=version, action=action)


RULE = Rule(
    "driver-floor", "The driver runs builds of this CUDA major.", ("nvidia.driver_version", "settings.driver"), evaluate
)
