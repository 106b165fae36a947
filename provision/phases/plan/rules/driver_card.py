"""The range of driver branches that support the cards."""

from collections.abc import Iterable, Iterator

from provision.catalog.rows.hardware import Architecture
from provision.catalog.versions import numbers
from provision.phases.plan import driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.driver_verdicts import reached
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, reject, rule


@rule("The driver's branch supports every GPU.", reads=("nvidia.driver_version", "nvidia.gpus"), order=50)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterable[Verdict]:
    plan = driver.choose(option, profile)
    if plan is None or plan.version is None:
        return ()
    return (*reached("driver-card", option, profile, plan), *_driven(driver.architectures(profile), plan.version))


def _driven(architectures: tuple[Architecture, ...], version: str) -> Iterator[Verdict]:
    for row in architectures:
        if row.last_branch and numbers(version)[0] > row.last_branch:
            text = f"branch {row.last_branch} is the last that supports {row.name}; the driver is {version}"
            yield reject(text, source=row.source, driver=version, last_branch=row.last_branch)
