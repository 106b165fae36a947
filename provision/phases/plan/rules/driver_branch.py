"""The support status of the driver branch."""

from collections.abc import Iterator

from provision.catalog import catalog
from provision.catalog.versions import numbers
from provision.phases.plan import driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, rule, warn


@rule("A driver branch without support is reported.", reads=("nvidia.driver_version",), order=270)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    if profile.driver_odd:
        yield warn(f"the driver reports `{profile.driver_odd}` as its version", driver=profile.driver_odd)
    plan = driver.choose(option, profile)
    if plan is None or plan.version is None:
        return
    row = next((row for row in catalog().branches if row.branch == numbers(plan.version)[0]), None)
    if row is None:
        yield warn(f"driver {plan.version} belongs to a branch that is not in the catalog", driver=plan.version)
    elif row.end_of_life == "ended":
        yield warn(f"driver branch {row.branch} gets no more fixes", source=row.source, driver=plan.version)
    elif row.end_of_life and row.end_of_life < catalog().driver_offer.as_of:
        text = f"driver branch {row.branch} has received no fixes since {row.end_of_life}"
        yield warn(text, source=row.source, driver=plan.version)
    elif row.end_of_life:
        yield accept(
            f"driver branch {row.branch} gets fixes until {row.end_of_life}", source=row.source, driver=plan.version
        )
