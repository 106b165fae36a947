"""What the driver rules share: whether the planned driver reaches the floors of one kind."""

from functools import cache

from provision.catalog.versions import numbers
from provision.models.stack import DriverPlan
from provision.resolve import compat, driver
from provision.resolve.option import Option
from provision.resolve.rules.base import Verdict, accept, reject
from provision.resolve.view import Launch, View


def reached(rule: str, option: Option, view: View, plan: DriverPlan) -> tuple[Verdict, ...]:
    """A verdict for each floor of one rule; nothing where the driver's version is not known."""
    if not plan.version:
        return ()
    beside = compat.choose(option, view) if rule in compat.CURED else None
    return _reached(rule, option, view.launch, plan.version, beside.package if beside else None)


@cache
def _reached(rule: str, option: Option, launch: Launch, version: str, beside: str | None) -> tuple[Verdict, ...]:
    """`beside` are libraries that stand in for a driver that does not reach."""
    found = []
    for floor in driver.floors(option, launch):
        if floor.rule == rule:
            short = numbers(version) < numbers(floor.driver)
            say = reject if short and beside is None else accept
            text = f"{floor.why}; the driver is {version}{f', and {beside} stands in' if short and beside else ''}"
            found.append(say(text, source=floor.source, driver=version, floor=floor.driver))
    return tuple(found)
