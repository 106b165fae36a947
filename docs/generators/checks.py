"""The page docs/reference/checks.md."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verify.runner.execution import FAULTS
from verify.runner.registry import all_checks, select
from verify.tables import table

TARGET = "docs/reference/checks.md"
FOLDER = Path(__file__).parent
FAULT_FAMILIES = FOLDER / "fault_families.toml"
BOUNDS = tomllib.loads((FOLDER / "check_bounds.toml").read_text(encoding="utf-8"))["row"]
HEAD = """# Checks

All checks of [`verify`](verify.md), written by `./firstlight docs`.

- *level*: the lowest of the levels `quick`, `standard` and `full` at which the check runs. Each level includes the ones before it, and [`burn-in`](verify.md#acceptance-of-a-new-server) repeats them for hours. `provision` and `verify` run `standard`.
- *devices*: the check gives one result for each device, one for all devices together, or one for the host. A device is a GPU; on a host without GPUs, the CPU.
- *requires*: checks that must end first. If one of them fails, this check does not run and reports `skip: needs ID`. With `--only`, the required checks run too.
- *faults*: faults that `--inject` can simulate to show that the check detects them ([list](#faults-that-can-be-injected)).
- *bound*: what makes the check warn, fail or give an error; anything else is ok. *source*: where the bound comes from. *cannot see*: what passes all the same. A skipped check sees nothing.
"""

FOUND = """## Real faults, and the checks that find them

Tests caused each of these faults: wrong answers, faults of the API and leaks in a real server, all others on a real host. *standard* lists the checks that find the fault at that level, *full* those that find more of it there. The last column lists what no check finds.

| fault | what it is | standard | full | not found |
|---|---|---|---|---|"""


def generate() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *_families(), FOUND, *_found(), *_faults(), ""])


def _families() -> Iterator[str]:
    for family in table("families")["family"]:
        checks = [check for check in all_checks() if check.family == family["name"]]
        yield f"## {family['name']}\n\n{family['about']}\n\n| check | level | description | devices | requires | faults |\n|---|---|---|---|---|---|"
        for check in checks:
            devices = "each" if check.each_device else "all together" if check.all_devices else "host"
            faults = ", ".join(f"`{fault}`" for fault in check.faults)
            premises = ", ".join(f"`{name}`" for name in check.requires)
            yield f"| `{check.id}` | {check.level} | {check.description} | {devices} | {premises} | {faults} |"
        yield "\n| check | bound | source | cannot see |\n|---|---|---|---|"
        for row in BOUNDS:
            if names := ", ".join(f"`{check.id}`" for check in checks if check.id in select(tuple(row["checks"]))):
                texts = (row[key].format_map(_Tables()) for key in ("bound", "source", "cannot_see"))
                yield f"| {names} | {' | '.join(texts)} |"
        yield ""


class _Tables(dict[str, Any]):
    """The tables of verify/data/ by name."""

    def __missing__(self, name: str) -> Any:
        return table(name)


def _found() -> Iterator[str]:
    for name, family in tomllib.loads(FAULT_FAMILIES.read_text(encoding="utf-8")).items():
        standard, full = (", ".join(f"`{id_}`" for id_ in family[level]) for level in ("standard", "full"))
        yield f"| {name} | {family['about']} | {standard} | {full} | {family['missed']} |"
    yield ""


def _faults() -> Iterator[str]:
    yield "## Faults that can be injected\n\n`--inject` changes what a check observes, never the host.\n\n| fault | simulates | detected by |\n|---|---|---|"
    for fault, row in FAULTS.items():
        count = sum(fault in check.faults for check in all_checks())
        noticed = "every check" if row.get("any_check") else f"{count} check{'s' if count != 1 else ''}"
        yield f"| `{fault}` | {row['about']} | {noticed} |"
