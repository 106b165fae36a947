"""The page docs/reference/checks.md, from the checks themselves: `python -m verify.checks_page > docs/reference/checks.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from verify.fault_families import FAMILIES as FAULT_FAMILIES
from verify.faults import ANY_CHECK, FAULTS
from verify.records import LEVELS
from verify.registry import FAMILIES, all_checks

HEAD = """# Checks

Every check of `verify`, in the order in which it is told. This page is made from the checks: `python -m verify.checks_page`.
A check of each device has a record for each one; a check that stands alone runs while no other one does. The faults are
those that `--inject` spoils its observation with, and that the suite proves it to notice; every check also survives
`crash` and `hang`.

Checks form a tree. A check begins when those that it needs have ended; where one of them failed or could not tell, it is not
run and says `skip: needs ID`, by the name of the first cause. Needed checks run also where `--only` and `--skip` do not name
them. A check that a fault was injected into runs in any case.
"""

FOUND = """## Real faults, and what finds them

Each was made on a real host by the suite, one at a time, several of every kind. `standard` is what a run of `provision` and `verify` does;
`full` names the checks that find more of them there. What no check finds stands in the last column.

| fault | what it is | standard | full | not found |
|---|---|---|---|---|"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_families(), FOUND, *_found(), *_faults(), ""])


def _families() -> Iterator[str]:
    for family, about in FAMILIES.items():
        checks = [check for check in all_checks() if check.family == family]
        yield f"## {family}\n\n{about}\n\n| check | level | proves | devices | needs | faults |\n|---|---|---|---|---|---|"
        for check in checks:
            devices = "each" if check.each_device else "all together" if check.all_devices else "host"
            faults = ", ".join(f"`{fault}`" for fault in check.faults)
            premises = ", ".join(f"`{name}`" for name in check.requires)
            yield f"| `{check.id}` | {check.level} | {check.description} | {devices} | {premises} | {faults} |"
        yield ""


def _found() -> Iterator[str]:
    for name, family in FAULT_FAMILIES.items():
        standard, full = (", ".join(f"`{id_}`" for id_ in ids) for ids in (family.standard, family.full))
        yield f"| {name} | {family.about} | {standard} | {full} | {family.missed} |"
    yield ""


def _faults() -> Iterator[str]:
    yield f"## Injected faults\n\nLevels, each with all before it: {', '.join(LEVELS)}.\n\n| fault | spoils | noticed by |\n|---|---|---|"
    for fault, about in FAULTS.items():
        count = sum(fault in check.faults for check in all_checks())
        yield f"| `{fault}` | {about} | {'every check' if fault in ANY_CHECK else f'{count} checks'} |"


if __name__ == "__main__":
    sys.stdout.write(page())
