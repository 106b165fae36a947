"""`./firstlight drift`: hosts that should be equal are read in one round trip each, and compared. No host is changed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from provision.cli.options import HOSTS, PRINTED, asked, takes
from provision.core.errors import Exit, UsageError
from provision.core.grouping import gather
from provision.core.models.facts import HostFacts
from provision.core.redaction import redact, scrub
from provision.features.host_comparison.compare import compare
from provision.features.host_comparison.text import MAJORITY, ComparedClass, document, render
from provision.features.host_comparison.values import HostValues, cards_of, label_of, values_of
from provision.phases.plan.what_if import read_facts
from provision.phases.probe.reading import CONFIGURATION, IN_FULL
from provision.pipeline import CommandRequest
from provision.pipeline.commands import print_summary, without_answer, write_stdout
from provision.pipeline.phases import PROBE
from provision.pipeline.runner import execute, read_inventory


@takes(*HOSTS, after=PRINTED)
def drift(
    *,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="HOST|FILE",
            help="Reference: a host, or a file with the facts of one. Default: the majority of the hosts with the same GPUs.",
        ),
    ] = None,
    **options: Any,
) -> None:
    """Compare hosts that should be equal: GPUs, driver, firmware, kernel, settings, packages."""
    raise typer.Exit(compare_hosts(asked("drift", **options), against))


def compare_hosts(request: CommandRequest, against: str | None) -> int:
    """Compare hosts with the majority of their equals, a host or a file of facts, and print what differs.

    Return 0 where nothing differs, 1 where something does or a host gave no answer, 130 when interrupted. Raises InventoryError, and UsageError
    where there is no such host or file.
    """
    names = {host.name for host in read_inventory(request).hosts}
    recorded = _recorded(against, names)
    step = replace(PROBE, run=partial(PROBE.run, more={IN_FULL, CONFIGURATION}))
    outcome = execute(request, (step,))
    wanted = [host.name for host in outcome.hosts if host.is_provisioned or host.name == against]
    facts = {name: outcome.result.facts[name] for name in wanted if name in outcome.result.facts}
    if outcome.exit_code == Exit.INTERRUPTED or (recorded is None and against not in (None, *facts)):
        return print_summary(outcome)
    golden = recorded or (facts[against] if against else None)
    classes = compared_classes(facts, golden, against)
    missing = sorted(set(wanted) - facts.keys())
    if request.as_json:
        answered = facts.keys() | (names - set(wanted))
        found = document(classes) | {"missing": without_answer(outcome.summary, answered)}
        write_stdout(json.dumps(scrub(found), indent=2))
    else:
        lines = [redact(render(classes)), *(f"{name}: gave no answer" for name in missing)]
        write_stdout("\n".join(filter(None, lines)) or "no host to compare")
    differs = any(not compared.comparison.is_equal for compared in classes)
    return outcome.exit_code or (Exit.RED if differs else Exit.OK)


def compared_classes(
    facts: Mapping[str, HostFacts], golden: HostFacts | None = None, against: str | None = None
) -> list[ComparedClass]:
    """Compare hosts with one reference, which a person named, or those with the same cards with their majority."""
    if golden is not None:
        others = [one for name, one in sorted(facts.items()) if name != against]
        return [_compared(others, values_of(golden), f"`{against}`")] if others else []
    equals = gather((cards_of(one), one) for _, one in sorted(facts.items()))
    return [_compared(hosts, None, MAJORITY) for _, hosts in sorted(equals.items(), reverse=True)]


def _compared(hosts: Sequence[HostFacts], reference: HostValues | None, against: str) -> ComparedClass:
    values = [values_of(one) for one in hosts]
    unread = {one.name: one.unread for one in values if one.unread}
    return ComparedClass(label_of(hosts), against, compare(values, reference), unread)


def _recorded(against: str | None, names: set[str]) -> HostFacts | None:
    """Return the facts of a file; None for a host of the inventory, and where no reference was named. Raises UsageError where there is neither."""
    if against is None or against in names:
        return None
    try:
        text = Path(against).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            f"`--against {against}` is no host of this run and no file that can be read",
            hint="name a host that the inventory and --limit leave in, or facts of an earlier run: logs/RUN/facts/HOST.json, or of a comparison: logs/queries/RUN/facts/HOST.json",
        ) from None
    found = read_facts(text, where=against)
    if len(found) != 1:
        raise UsageError(
            f"`{against}` has the facts of {len(found)} hosts, and one is the reference",
            hint="give the file of one host, such as logs/RUN/facts/HOST.json",
        )
    return found[0]


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(drift)
