"""The driver runs builds of the candidate's CUDA major."""

from collections.abc import Iterator

from provision.resolve import driver
from provision.resolve.option import Option
from provision.resolve.rules.base import Rule, Verdict, accept, assume
from provision.resolve.rules.driver_reach import reached
from provision.resolve.view import View

_DOING = {"keep": "stays", "install": "will be installed", "upgrade": "will replace the one that is there"}


def judge(option: Option, view: View) -> Iterator[Verdict]:
    plan = driver.choose(option, view)
    if plan is None:
        return
    yield from reached("driver-floor", option, view, plan)
    if plan.version is None:
        yield assume("the NVIDIA driver is new enough for the chosen builds")
    else:
        yield accept(f"driver {plan.version} {_DOING[plan.action]}", driver=plan.version, action=plan.action)


RULE = Rule(
    "driver-floor", "The driver runs builds of this CUDA major.", ("nvidia.driver_version", "settings.driver"), judge
)
