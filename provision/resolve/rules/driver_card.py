"""The driver drives these cards: not older than their first, not newer than their last branch."""

from collections.abc import Iterator

from provision.catalog.versions import numbers
from provision.resolve import driver
from provision.resolve.option import Option
from provision.resolve.rules.base import Rule, Verdict, reject
from provision.resolve.rules.driver_reach import reached
from provision.resolve.view import View


def judge(option: Option, view: View) -> Iterator[Verdict]:
    plan = driver.choose(option, view)
    if plan is None or plan.version is None:
        return
    yield from reached("driver-card", option, view, plan)
    for row in driver.architectures(view):
        if row.last_branch and numbers(plan.version)[0] > row.last_branch:
            text = f"branch {row.last_branch} is the last that drives {row.name}; the driver is {plan.version}"
            yield reject(text, source=row.source, driver=plan.version, last_branch=row.last_branch)


RULE = Rule("driver-card", "The driver's branch drives every card.", ("nvidia.driver_version", "nvidia.gpus"), judge)
