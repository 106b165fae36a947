"""Authors of drift: owner and time of a changed file, the package that owns it, a sudo call just before. One round trip."""

import re
from collections.abc import Sequence

from provision.core.errors import FirstlightError
from provision.core.models.facts import Drift
from provision.fleet.ssh import Session
from provision.phases.probe.parsers.drift import UNITS, utc
from provision.phases.probe.reading import assembled
from provision.phases.probe.sections import Output, split

BEFORE_S = 120
"""Seconds: a sudo call that is older than the change by more than this is not named with it."""
COMMAND_LIMIT_S = 5
BUDGET_S = 10
DEADLINE_S = 15.0

_SUDO = re.compile(r"^([0-9]+)[0-9.]* \S+ sudo\[[0-9]+\]: +(\S+) : .*\bCOMMAND=(\S+)")


def with_authors(drift: Sequence[Drift], session: Session, *, root: bool) -> tuple[Drift, ...]:
    """Return drift with the author of each change, as far as the host knows.

    Args:
        drift: Differences from the recorded state.
        session: Connection to the host.
        root: Whether to read as root.
    """
    paths = [each.path for each in drift if _is_of_file(each)]
    if not paths:
        return tuple(drift)
    script = assembled(
        "changes.sh",
        limit_s=COMMAND_LIMIT_S,
        budget_s=BUDGET_S,
        paths="\n".join(dict.fromkeys(paths)),
        before_s=str(BEFORE_S),
    )
    try:
        answer = session.run("", stdin=script, timeout_s=DEADLINE_S, root=root)
    except FirstlightError:
        return tuple(drift)
    known = changes(split(answer.stdout))
    return tuple(
        each.model_copy(update={"by": known[each.path]}) if _is_of_file(each) and each.path in known else each
        for each in drift
    )


def changes(output: Output) -> dict[str, str]:
    """Return what is known of the last change of each existing file, as text by its path."""
    found = {}
    for line in output["owners"].lines():
        owner, modified, changed, path = (*line.split(" ", 3), "", "", "", "")[:4]
        if not (modified.isdigit() and changed.isdigit() and path):
            continue
        at = max(int(modified), int(changed))
        package, sudo = _package(output, path), _sudo(output, path, at)
        parts = [f"last changed {utc(str(at))}, owner {owner}", f"of package {package}" if package else None, sudo]
        found[path] = ", ".join(filter(None, parts))
    return found


def _package(output: Output, path: str) -> str | None:
    named = (line.rpartition(": ") for line in output["packages"].lines())
    return next((package for package, _, owned in named if owned == path and package), None)


def _sudo(output: Output, path: str, at: int) -> str | None:
    for line in output["sudo_calls"].lines():
        head, _, said = line.partition("|")
        if head == path and (call := _SUDO.match(said)):
            return f"{max(0, at - int(call[1]))} s after {call[2]} ran {call[3]} by sudo"
    return None


def _is_of_file(each: Drift) -> bool:
    """Return whether the path is that of the changed file; for the unit itself systemd may have changed a setting elsewhere."""
    return each.kind != "process" and not (each.kind == "unit" and UNITS.fullmatch(each.path.rpartition("/")[2]))
