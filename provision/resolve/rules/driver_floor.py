"""The driver runs builds of the candidate's CUDA major."""

from collections.abc import Iterable, Iterator

from provision.resolve import driver
from provision.resolve.option import Option
from provision.resolve.rules.base import Rule, Verdict, accept, assume, remembered
from provision.resolve.rules.driver_reach import reached
from provision.resolve.view import View

_DOING = {"keep": "stays", "install": "will be installed", "upgrade": "will replace the one that is there"}


def judge(option: Option, view: View) -> Iterable[Verdict]:
    plan = driver.choose(option, view)
    return (*reached("driver-floor", option, view, plan), *_there(plan.version, plan.action)) if plan else ()


@remembered
def _there(version: str | None, action: str) -> Iterator[Verdict]:
    if version is None:
        yield assume("the NVIDIA driver is new enough for the chosen builds")
    else:
        yield accept(f"driver {version} {_DOING[action]}", driver=version, action=action)


RULE = Rule(
    "driver-floor", "The driver runs builds of this CUDA major.", ("nvidia.driver_version", "settings.driver"), judge
)
