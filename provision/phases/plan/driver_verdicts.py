"""The verdicts that the driver rules share: whether the planned driver reaches the floors of one rule."""

from functools import cache

from provision.catalog.versions import numbers
from provision.core.models.stack import DriverPlan
from provision.phases.plan import compat, driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile, Launch
from provision.phases.plan.rule import Verdict, accept, reject


def reached(rule: str, option: BuildOption, profile: HostProfile, plan: DriverPlan) -> tuple[Verdict, ...]:
    """Return a verdict for each floor of one rule; none if the driver's version is unknown."""
    if not plan.version:
        return ()
    libraries = compat.choose(option, profile) if rule in compat.CURED else None
    return _reached(option, profile.launch, plan.version, libraries.package if libraries else None).get(rule, ())


@cache
def _reached(
    option: BuildOption, launch: Launch, version: str, libraries: str | None
) -> dict[str, tuple[Verdict, ...]]:
    """Return the verdicts by rule. `libraries` is the compatibility package that extends a driver that is too old."""
    found: dict[str, tuple[Verdict, ...]] = {}
    for floor in driver.floors(option, launch):
        short = numbers(version) < numbers(floor.driver)
        verdict_of = reject if short and libraries is None else accept
        text = f"{floor.why}; the driver is {version}{f', extended by {libraries}' if short and libraries else ''}"
        verdict = verdict_of(text, source=floor.source, driver=version, floor=floor.driver)
        found[floor.rule] = (*found.get(floor.rule, ()), verdict)
    return found
