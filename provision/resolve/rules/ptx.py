"""Code that is there as PTX only, or is compiled on the host, needs a driver of the toolkit's own branch or newer."""

from collections.abc import Iterator

from provision.resolve import driver
from provision.resolve.option import Option
from provision.resolve.rules.base import Rule, Verdict
from provision.resolve.rules.driver_reach import reached
from provision.resolve.view import View


def judge(option: Option, view: View) -> Iterator[Verdict]:
    plan = driver.choose(option, view)
    if plan is not None:
        yield from reached("ptx", option, view, plan)


RULE = Rule(
    "ptx",
    "Where an extension that this Stack launches has only PTX for a card, or is compiled on the host, the driver is as new as the toolkit.",
    ("nvidia.driver_version", "nvidia.gpus"),
    judge,
)
