"""What the driver rules share: whether the planned driver reaches the floors of one kind."""

from functools import cache

from provision.catalog.versions import numbers
from provision.models.stack import DriverPlan
from provision.resolve import driver
from provision.resolve.option import Option
from provision.resolve.rules.base import Verdict, accept, reject
from provision.resolve.view import Launch, View


def reached(rule: str, option: Option, view: View, plan: DriverPlan) -> tuple[Verdict, ...]:
    """A verdict for each floor of one rule; nothing where the driver's version is not known."""
    return _reached(rule, option, view.launch, plan.version) if plan.version else ()


@cache
def _reached(rule: str, option: Option, launch: Launch, version: str) -> tuple[Verdict, ...]:
    found = []
    for floor in driver.floors(option, launch):
        if floor.rule == rule:
            say = reject if numbers(version) < numbers(floor.driver) else accept
            text = f"{floor.why}; the driver is {version}"
            found.append(say(text, source=floor.source, driver=version, floor=floor.driver))
    return tuple(found)
