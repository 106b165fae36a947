"""What the driver rules share: whether the planned driver reaches the floors of one kind."""

from functools import cache

from provision.catalog.versions import numbers
from provision.core.models.stack import DriverPlan
from provision.phases.plan import compat, driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile, Launch
from provision.phases.plan.rule import Verdict, accept, reject


def reached(rule: str, option: BuildOption, profile: HostProfile, plan: DriverPlan) -> tuple[Verdict, ...]:
    """A verdict for each floor of one rule; nothing where the driver's version is not known."""
    if not plan.version:
        return ()
    beside = compat.choose(option, profile) if rule in compat.CURED else None
    return _reached(option, profile.launch, plan.version, beside.package if beside else None).get(rule, ())


@cache
def _reached(option: BuildOption, launch: Launch, version: str, beside: str | None) -> dict[str, tuple[Verdict, ...]]:
    """The verdicts by rule. `beside` are libraries that stand in for a driver that does not reach."""
    found: dict[str, tuple[Verdict, ...]] = {}
    for floor in driver.floors(option, launch):
        short = numbers(version) < numbers(floor.driver)
        say = reject if short and beside is None else accept
        text = f"{floor.why}; the driver is {version}{f', and {beside} stands in' if short and beside else ''}"
        verdict = say(text, source=floor.source, driver=version, floor=floor.driver)
        found[floor.rule] = (*found.get(floor.rule, ()), verdict)
    return found
