"""The page docs/reference/checks.md."""

from __future__ import annotations

from collections.abc import Iterator

from verify.fault_families import FAMILIES as FAULT_FAMILIES
from verify.faults import ANY_CHECK, FAULTS
from verify.records import LEVELS
from verify.registry import FAMILIES, all_checks

TARGET = "docs/reference/checks.md"
HEAD = """# Checks

Every check of `verify`, in the order of its records; `./firstlight docs` generates this page from the checks.
A check of each device has a record for each device. The faults are those that `--inject` applies to the observation of the check;
the tests prove that it notices them, and that it survives `crash` and `hang`.

Checks form a tree. A check begins when the checks that it needs have ended. If one of them failed or ended with an error, it does not
run, and its record is `skip: needs ID` with the id of the first cause. Needed checks also run if `--only` and `--skip` do not name
them. A check with an injected fault always runs.
"""

FOUND = """## Real faults, and what finds them

The tests made each of these faults on a real host, one at a time, several of every kind. `standard` is the level of `provision` and `verify`;
`full` names the checks that find more faults at that level. The last column lists what no check finds.

| fault | what it is | standard | full | not found |
|---|---|---|---|---|"""


def generate() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *_families(), FOUND, *_found(), *_faults(), ""])


def _families() -> Iterator[str]:
    for family, about in FAMILIES.items():
        checks = [check for check in all_checks() if check.family == family]
        yield f"## {family}\n\n{about}\n\n| check | level | description | devices | requires | faults |\n|---|---|---|---|---|---|"
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
