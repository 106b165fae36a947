"""Commands that run phases, and what they print: data on standard output, everything else on standard error."""

import errno
import json
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from provision.core.errors import Exit, ModelError, StageError, UsageError
from provision.core.folders import as_typed, cache_folder
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Connection, Host
from provision.core.models.invocation import Invocation
from provision.core.models.records import PhaseName, PlannedChange, Summary
from provision.core.models.settings import Settings
from provision.core.models.stack import Plan
from provision.core.redaction import redact, scrub
from provision.core.run_folder import is_query
from provision.fleet.inventory.settings import Problems, settings_of
from provision.phases.plan import choose_stacks
from provision.phases.plan.cards import with_slices
from provision.phases.plan.choose import classes
from provision.phases.plan.explain import WhyNotDocument, render_answers, to_json, why_not
from provision.phases.plan.explain import render as render_plans
from provision.phases.plan.fit.shape import Shape
from provision.phases.plan.policy import GivenWheel
from provision.phases.plan.services import deciding, part_of, with_gpus
from provision.phases.plan.what_if import hosts_of_what_if, parse_what_if, read_facts
from provision.phases.stage import Store
from provision.phases.stage.model_description import describe_all
from provision.phases.stage.vllm_wheel import WheelReader
from provision.pipeline import CommandRequest
from provision.pipeline.phases import BEFORE_PLAN, CHANGES, DRIVERS, PLAN, PROBE_IN_FULL, fleet_steps, steps_until
from provision.pipeline.runner import RunOutcome, execute, read_inventory
from provision.report.history.retention import prune_quietly
from provision.report.layout import folded
from provision.report.planned_changes import time_line
from provision.report.screen import first_screen_of
from provision.run import deb_packages
from provision.run.host_changes import around_lines, changes_of
from provision.run.results import PlannedHosts
from provision.run.step import Step
from verify.printable import unguarded


def write_stdout(text: str, *, drawn: bool = False) -> None:
    """Print data; `drawn` says whether it contains colour codes of our own.

    A terminal that was closed is no error: the run's folder has the data too.

    Raises:
        BrokenPipeError: The reader closed the pipe.
        OSError: It cannot be written for another reason, such as a full disk.
    """
    stream = unguarded(sys.stdout) if drawn else sys.stdout
    try:
        text = as_typed(text)
        stream.write(text if text.endswith("\n") else text + "\n")
        stream.flush()
    except OSError as error:
        if error.errno != errno.EIO:
            raise


@dataclass(frozen=True)
class PlannedFrom:
    """What hosts are planned from, and whether secrets of theirs are masked in what is printed of it."""

    facts: Mapping[str, HostFacts]
    settings: Mapping[str, Settings]
    shapes: Mapping[str, Shape]
    wheels: Mapping[str, GivenWheel] = field(default_factory=dict)
    become: frozenset[str] = frozenset()
    changes: Mapping[str, Sequence[PlannedChange]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Lines below the plan."""
    is_masked: bool = False

    def write(self, answer: str | dict[str, Any], invocation: Invocation) -> None:
        """Print a text with complete commands, in the width of the terminal if there is one, or a document as JSON."""
        if isinstance(answer, str):
            text = invocation.complete(answer)
            text = redact(text) if self.is_masked else text
            write_stdout(folded(text) if sys.stdout.isatty() else text)
        else:
            write_stdout(json.dumps(scrub(answer) if self.is_masked else answer, indent=2))


def run(request: CommandRequest, *, last: PhaseName = "serve") -> int:
    """Run the phases up to one, print the summary, and return the exit code.

    Gateways and monitoring hosts have to know the whole inventory: a limit to them means that they are set up for it.
    """
    steps = steps_until(last)
    if last == "serve" and request.limit is not None:
        # Only their groups count here: a bundle, which is not open yet, may have the folder of a typed model.
        overrides = {name: value for name, value in request.overrides.items() if name != "model"}
        hosts = read_inventory(replace(request, overrides=overrides)).hosts
        if not any(host.is_provisioned for host in hosts):
            gateway = ("gateway",) if any(host.is_gateway for host in hosts) else ()
            monitoring = ("monitoring",) if any(host.is_monitoring for host in hosts) else ()
            steps = (*BEFORE_PLAN, *fleet_steps(*gateway, *monitoring, "firewall"))
            request = replace(request, limit=None)
    return run_steps(request, steps)


def run_drivers(request: CommandRequest) -> int:
    """Install the planned drivers and nothing else, print the summary, and return the exit code."""
    planning = replace(PLAN, run=partial(PLAN.run, keeps_model=True))
    drivers = Step("drivers", partial(DRIVERS.run, alone=True), DRIVERS.phase)
    return run_steps(request, (*BEFORE_PLAN, planning, drivers))


def run_steps(request: CommandRequest, steps: Sequence[Step]) -> int:
    """Run steps, print the summary, remove old runs, and return the exit code."""
    outcome = execute(request, steps)
    print_summary(outcome)
    # Here, since nothing before needs it.
    prune_quietly(request.logs)
    return outcome.exit_code


def print_summary(outcome: RunOutcome) -> Exit:
    """Print the summary, its first screen on a terminal, all of it to a file or a pipe; return the exit code of the run."""
    text, run = outcome.texts["summary.json" if outcome.as_json else "summary.txt"], outcome.summary.run
    if sys.stdout.isatty() and not outcome.as_json:
        text = first_screen_of(text, run if is_query(run) else None)
    write_stdout(text)
    return outcome.exit_code


def without_answer(summary: Summary, answered: Container[str]) -> list[dict[str, Any]]:
    """Return the hosts that a document has nothing of, each with how it ended and what to do."""
    return [
        {"host": host.name, "state": host.state, "text": last.text, "hint": last.hint}
        for host in summary.hosts
        if host.name not in answered and (last := next(reversed(host.phases.values()), None))
    ]


def report_missing(missing: Iterable[Mapping[str, Any]]) -> None:
    """Print why hosts gave no answer, and what to do, on standard error: the progress view of a terminal leaves nothing of it."""
    for one in missing:
        text = (one["text"] or one["state"]).removeprefix(f"{one['host']}: ")
        hint = f"\n\nhint: {one['hint']}" if one["hint"] else ""
        sys.stderr.write(redact(f"error: {one['host']}: {text}{hint}\n"))


def probe(request: CommandRequest) -> int:
    """Probe the hosts, and print their facts or the summary."""
    outcome = execute(request, (PROBE_IN_FULL,))
    if not request.as_json:
        return print_summary(outcome)
    facts = (outcome.result.facts[name] for name in sorted(outcome.result.facts))
    write_stdout(json.dumps([scrub(each.model_dump(mode="json")) for each in facts], indent=2))
    report_missing(without_answer(outcome.summary, outcome.result.facts.keys()))
    return outcome.exit_code


def plan(request: CommandRequest, *, explain: bool, why_not: str | None = None) -> int:
    """Probe and plan; print the Stack of each class, why, and what would change. No host is changed.

    With `why_not` the answer to that question is printed instead.
    """
    looking = Step("packages", deb_packages.look, "plan", "all", reads_only=True)
    outcome = execute(request, (*BEFORE_PLAN, PLAN, CHANGES, looking))
    planned = outcome.result if isinstance(outcome.result, PlannedHosts) else PlannedHosts()
    if not planned.plan.classes and not request.as_json:
        return print_summary(outcome)
    facts = {name: planned.facts[name] for resolution in planned.plan.classes for name in resolution.hosts}
    failed = {host.name for host in outcome.summary.hosts if any(one.has_failed for one in host.phases.values())}
    around = {host.name for host in outcome.hosts if not host.is_provisioned}
    # Where nothing fits, the plan itself says why. A host may also fail after its versions were chosen.
    refused = {name for name in facts if planned.stack(name) is None}
    missing = without_answer(outcome.summary, refused | ((facts.keys() | around) - failed))
    if why_not is not None:
        print_why_not(request, why_not, planned_from([host for host in outcome.hosts if host.name in facts], facts))
        report_missing(missing)
        return Exit.OK if outcome.exit_code == Exit.NO_STACK else outcome.exit_code
    notes = [*around_lines(outcome.hosts, planned), *planned.notes]
    if took := time_line(request.logs, planned.changes):
        notes.append(took)
    settings = {host.name: host.settings for host in outcome.hosts}
    hosts = PlannedFrom(facts, settings, shapes={}, changes=planned.changes, notes=tuple(notes), is_masked=True)
    print_plan(request, planned.plan, hosts, explain=explain, missing=missing)
    return outcome.exit_code


def plan_recorded(
    request: CommandRequest, *, what_if: str | None, files: Sequence[Path], explain: bool, why_not: str | None = None
) -> int:
    """Plan hosts from recorded facts or from a description. Needs no network and no host."""
    described = [parse_what_if(what_if)] if what_if is not None else []
    recorded = recorded_facts(files, before=described)
    wanted = described_settings(request.overrides, what_if)
    facts = {name: with_slices(one, wanted) for name, one in recorded.items()}
    settings = dict.fromkeys(facts, wanted)
    hosts = PlannedFrom(facts, settings, shapes_of(wanted), given_wheels(facts, settings))
    if why_not is not None:
        print_why_not(request, why_not, hosts)
        return Exit.OK
    chosen = choose_stacks(hosts.facts, hosts.settings, shapes=hosts.shapes, wheels=hosts.wheels)
    stacks = {name: stack for name in facts if (stack := chosen.for_host(name).stack) is not None}
    changes = {
        name: changes_of(Host(name=name, connection=Connection(kind="local"), settings=wanted), facts[name], stack)
        for name, stack in stacks.items()
    }
    print_plan(request, chosen, replace(hosts, changes=changes), explain=explain)
    return Exit.NO_STACK if any(resolution.stack is None for resolution in chosen.classes) else Exit.OK


def recorded_facts(files: Iterable[Path], before: Iterable[HostFacts] = ()) -> dict[str, HostFacts]:
    """Return facts by host: those that are known before, and those in files.

    Raises:
        UsageError: A file cannot be read, contains no facts, or has those of a host that were given before.
    """
    facts = {entry.host: entry for entry in before}
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            hint = "record facts with ./firstlight probe --json > FILE"
            raise UsageError(f"`{path}` cannot be read: {error}", hint=hint) from None
        for entry in read_facts(text, where=str(path)):
            if entry.host in facts:
                raise UsageError(
                    f"{path}: facts of host `{entry.host}` were given before",
                    hint="plan one recording of a host at a time",
                )
            facts[entry.host] = entry
    return facts


def described_settings(overrides: Mapping[str, Any], what_if: str | None) -> Settings:
    """Return the settings of a host that is not in an inventory.

    Its description may name the number of hosts that the model is spread over.

    Raises:
        InventoryError: An option is wrong.
        UsageError: The description is malformed.
    """
    span = hosts_of_what_if(what_if) if what_if is not None else 1
    # Whether processes may listen between hosts is no question of a plan.
    given = {**overrides, "span": span, "expose": True} if span > 1 else overrides
    problems = Problems()
    wanted = settings_of("what-if", variables={}, overrides=given, base=Path.cwd(), problems=problems)
    problems.raise_any(lambda _: [])
    return wanted or Settings()


def shapes_of(settings: Settings) -> dict[str, Shape]:
    """Describe the memory needs of the model and its draft model, by their names in the settings; empty for the built-in model."""
    try:
        return describe_all(settings, Store(cache_folder()))
    except StageError as error:
        raise ModelError(f"cannot tell whether model `{settings.model}` fits: {error.text}", hint=error.hint) from None


def given_wheels(facts: Mapping[str, HostFacts], settings: Mapping[str, Settings]) -> dict[str, GivenWheel]:
    """Read the wheels of vLLM that settings name, by host.

    Raises:
        StageError: One cannot be had, or is no wheel of vLLM that a plan can choose.
    """
    return WheelReader(Store(cache_folder())).read_all(facts, settings)


def planned_from(hosts: Sequence[Host], facts: Mapping[str, HostFacts]) -> PlannedFrom:
    """Return what hosts are planned from: each of several services of a machine from its part of it.

    Raises:
        InventoryError: GPUs cannot be split or divided as the settings want.
        ModelError: It cannot be told whether a model fits.
        StageError: A wheel of vLLM cannot be had, or is none that a plan can choose.
    """
    models = {(one.model, one.draft): one for host in hosts for one in deciding(host, facts[host.name])}
    shapes = {model: shape for one in models.values() for model, shape in shapes_of(one).items()}
    sliced = {host.name: with_slices(facts[host.name], host.settings) for host in hosts}
    settings = {host.name: with_gpus(host, sliced[host.name], shapes) for host in hosts}
    parts = {host.name: part_of(host, sliced[host.name]) for host in hosts}
    become = frozenset(host.name for host in hosts if host.connection.become)
    return PlannedFrom(parts, settings, shapes, given_wheels(parts, settings), become, is_masked=True)


def print_why_not(request: CommandRequest, asked: str, hosts: PlannedFrom) -> None:
    """Print the verdict of every rule on one release, and what would make it possible."""
    found = classes(hosts.facts, hosts.settings, become=hosts.become, shapes=hosts.shapes, wheels=hosts.wheels)
    answers = why_not(asked, found)
    document = WhyNotDocument(classes=tuple(answers)).model_dump(mode="json")
    hosts.write(document if request.as_json else render_answers(answers), request.invocation)


def print_plan(
    request: CommandRequest, plan: Plan, hosts: PlannedFrom, *, explain: bool, missing: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Print the plan; `missing` are the hosts that could not be planned: a part of the document, errors beside the text."""
    if request.as_json:
        document = to_json(plan, hosts.changes) | ({"missing": list(missing)} if missing else {})
        hosts.write(document, request.invocation)
    else:
        text = render_plans(plan, hosts.settings, changes=hosts.changes, explain=explain)
        hosts.write("\n".join((text, *hosts.notes)) if hosts.notes else text, request.invocation)
        report_missing(missing)
