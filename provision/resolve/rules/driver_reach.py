"""What the driver rules share: whether the planned driver reaches the floors of one kind."""

from collections.abc import Iterator

from provision.catalog.versions import numbers
from provision.models.stack import DriverPlan
from provision.resolve import driver
from provision.resolve.option import Option
from provision.resolve.rules.base import Verdict, accept, reject
from provision.resolve.view import View


def reached(rule: str, option: Option, view: View, plan: DriverPlan) -> Iterator[Verdict]:
    """A verdict for each floor of one rule; nothing where the driver's version is not known."""
    if plan.version is None:
        return
    for floor in driver.floors(option, view):
        if floor.rule != rule:
            continue
        facts = {"driver": plan.version, "floor": floor.driver}
        if numbers(plan.version) < numbers(floor.driver):
            yield reject(f"{floor.why}; the driver is {plan.version}", source=floor.source, **facts)
        else:
            yield accept(f"{floor.why}; the driver is {plan.version}", source=floor.source, **facts)
