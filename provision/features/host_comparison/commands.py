"""`./firstlight drift`: hosts that should be equal are read in one round trip each, and compared. No host is changed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from provision.cli.options import HOSTS, PRINTED, asked, takes
from provision.core.errors import Exit, UsageError
from provision.core.grouping import gather
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.redaction import redact, scrub
from provision.features.host_comparison.compare import compare
from provision.features.host_comparison.text import MAJORITY, ComparedClass, document, render
from provision.features.host_comparison.values import HostValues, cards_of, label_of, of_machine, values_of
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
    machines = _machines([host for host in outcome.hosts if host.name in facts], facts)
    classes = compared_classes(machines, _golden(machines, recorded, against), against)
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


@dataclass(frozen=True)
class Machine:
    """A machine with the facts that were read for each of its services."""

    name: str
    services: tuple[tuple[str | None, HostFacts], ...]
    """By name; None where the machine has one."""

    @property
    def facts(self) -> HostFacts:
        """Return the facts of the machine itself, which are the same for all its services."""
        return self.services[0][1]

    def values(self) -> HostValues:
        """Return what is compared of it."""
        return of_machine(self.name, [values_of(facts, service) for service, facts in self.services])


def _machines(hosts: Iterable[Host], facts: Mapping[str, HostFacts]) -> list[Machine]:
    found = gather((host.machine, (host.service.name if host.service else None, facts[host.name])) for host in hosts)
    return [Machine(name, tuple(services)) for name, services in sorted(found.items())]


def _golden(machines: Iterable[Machine], recorded: HostFacts | None, against: str | None) -> Machine | None:
    """Return the reference that a person named; None without one. Of a file, the name says for which service it was written."""
    if recorded is None:
        return next((one for one in machines if any(facts.host == against for _, facts in one.services)), None)
    service = recorded.host.rpartition("@")[2]
    is_known = any(service == name for one in machines for name, _ in one.services)
    return Machine(recorded.host, ((service if is_known else None, recorded),))


def compared_classes(
    machines: Sequence[Machine], golden: Machine | None = None, against: str | None = None
) -> list[ComparedClass]:
    """Compare machines with one reference, which a person named, or those with the same cards with their majority."""
    if golden is not None:
        others = [one for one in machines if one is not golden]
        return [_compared(others, golden.values(), f"`{against}`")] if others else []
    equals = gather((cards_of(one.facts), one) for one in machines)
    return [_compared(alike, None, MAJORITY) for _, alike in sorted(equals.items(), reverse=True)]


def _compared(machines: Sequence[Machine], reference: HostValues | None, against: str) -> ComparedClass:
    values = [one.values() for one in machines]
    unread = {one.name: one.unread for one in values if one.unread}
    return ComparedClass(label_of([one.facts for one in machines]), against, compare(values, reference), unread)


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
