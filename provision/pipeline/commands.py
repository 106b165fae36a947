"""What each command does with a run, and what it prints: data on standard output, everything else on standard error."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provision.core.errors import Exit, ModelError, StageError, UsageError
from provision.core.models.facts import HostFacts
from provision.core.models.records import PhaseName, Summary
from provision.core.models.settings import Settings
from provision.core.models.stack import Plan
from provision.pipeline import Request
from provision.pipeline.phases import DRIVERS, PLAN, PROBE, LazyStep, Step, steps_until
from provision.pipeline.runner import cache_folder, execute
from provision.report.history.pruning import prune_quietly
from verify.printable import unguarded

if TYPE_CHECKING:
    from provision.phases.plan.fit import Shape


def write_stdout(text: str, *, drawn: bool = False) -> None:
    """Print data; where a closed terminal no longer takes it, it stands in the run's folder. `drawn` text has colours of ours.

    Raises BrokenPipeError when a reader has seen enough, OSError when it cannot be written otherwise: a full disk.
    """
    stream = unguarded(sys.stdout) if drawn else sys.stdout
    try:
        stream.write(text if text.endswith("\n") else text + "\n")
        stream.flush()
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def run(request: Request, *, last: PhaseName = "serve", as_json: bool = False) -> int:
    """Run through the phases up to one, and print the summary."""
    summary, code = execute(request, steps_until(last))
    print_summary(request, summary, as_json=as_json)
    prune_quietly(request.logs)
    return code


def bring_drivers(request: Request, *, as_json: bool = False) -> int:
    """Have the drivers as planned and nothing else; print the summary."""
    steps: tuple[Step, ...] = (PROBE, PLAN, DRIVERS, ("install", LazyStep("drivers:record_untouched")))
    summary, code = execute(request, steps)
    print_summary(request, summary, as_json=as_json)
    prune_quietly(request.logs)
    return code


def print_summary(request: Request, summary: Summary, *, as_json: bool = False) -> None:
    """The summary as people or scripts read it: a terminal gets its first screen, a file or a pipe, which may be all that stays, the whole."""
    path = request.logs / summary.run / ("summary.json" if as_json else "summary.txt")
    text = path.read_text(encoding="utf-8")
    from provision.report.screen import first_screen_of  # noqa: PLC0415 - only commands that summarise pay for it

    write_stdout(first_screen_of(text) if sys.stdout.isatty() and not as_json else text)


def without_answer(summary: Summary, answered: Container[str]) -> list[dict[str, Any]]:
    """Each host of a run that a document has nothing of, with how it ended and what to do."""
    return [
        {"host": host.name, "state": host.state, "text": last.text, "hint": last.hint}
        for host in summary.hosts
        if host.name not in answered and (last := next(reversed(host.phases.values()), None))
    ]


def probe(request: Request, *, as_json: bool) -> int:
    """Look at the hosts; print their facts, or the summary."""
    summary, code = execute(request, steps_until("probe"))
    if as_json:
        paths = sorted((request.logs / summary.run).glob("facts/*.json"))
        write_stdout(json.dumps([json.loads(path.read_bytes()) for path in paths], indent=2))
    else:
        print_summary(request, summary)
    return code


def plan(request: Request, *, as_json: bool, explain: bool, why_not: str | None = None) -> int:
    """Probe and plan; print the Stack of each class, why, and what would change. No host is changed.

    With `why_not` the answer to that question is printed instead.
    """
    summary, code = execute(request, steps_until("plan"))
    run = request.logs / summary.run
    planned = run / "plan.json"
    chosen = Plan.model_validate_json(planned.read_bytes()) if planned.exists() else Plan(classes=())
    if not chosen.classes and not as_json:
        print_summary(request, summary)
        return code
    inventory = json.loads((run / "inventory.json").read_bytes())
    settings = {host["name"]: Settings.model_validate(host["settings"]) for host in inventory["hosts"]}
    become = {host["name"] for host in inventory["hosts"] if host["connection"]["become"]}
    facts = {
        name: HostFacts.model_validate_json((run / f"facts/{name}.json").read_bytes())
        for resolution in chosen.classes
        for name in resolution.hosts
    }
    if why_not is not None:
        models = {settings[name].model: settings[name] for name in facts}
        shapes = {model: shape for one in models.values() for model, shape in shapes_of(one).items()}
        print_why_not(why_not, facts, settings, become, shapes, as_json=as_json)
        return Exit.OK if code == Exit.NO_STACK else code
    missing = without_answer(summary, facts)
    print_plan(chosen, facts, settings, become, as_json=as_json, explain=explain, missing=missing)
    return code


def plan_recorded(
    request: Request,
    *,
    what_if: str | None,
    files: Sequence[Path],
    as_json: bool,
    explain: bool,
    why_not: str | None = None,
) -> int:
    """Plan hosts that are not there: from recorded facts, or from a description. Needs no network and no host."""
    from provision.phases.plan import plan as resolve  # noqa: PLC0415 - only for absent hosts
    from provision.phases.plan.recorded_facts import read_facts  # noqa: PLC0415 - only for absent hosts
    from provision.phases.plan.what_if import parse_what_if  # noqa: PLC0415 - only for absent hosts

    described = [parse_what_if(what_if)] if what_if is not None else []
    facts = {entry.host: entry for entry in described}
    for path in files:
        for entry in read_facts(_text(path), where=str(path)):
            if entry.host in facts:
                raise UsageError(
                    f"{path}: facts of host `{entry.host}` were given before",
                    hint="plan one recording of a host at a time",
                )
            facts[entry.host] = entry
    wanted = described_settings(request.overrides)
    settings = dict.fromkeys(facts, wanted)
    shapes = shapes_of(wanted)
    if why_not is not None:
        print_why_not(why_not, facts, settings, set(), shapes, as_json=as_json)
        return Exit.OK
    chosen = resolve(facts, settings, shapes=shapes)
    print_plan(chosen, facts, settings, set(), as_json=as_json, explain=explain)
    return Exit.NO_STACK if any(resolution.stack is None for resolution in chosen.classes) else Exit.OK


def described_settings(overrides: Mapping[str, Any]) -> Settings:
    """The settings of a host that is not in an inventory: options alone.

    Raises InventoryError when one is wrong.
    """
    from provision.fleet.inventory.settings import Problems, settings_of  # noqa: PLC0415 - only for absent hosts

    problems = Problems()
    wanted = settings_of("what-if", variables={}, near=[], overrides=overrides, base=Path.cwd(), problems=problems)
    problems.raise_any(lambda _: [])
    return wanted or Settings()


def shapes_of(settings: Settings) -> dict[str, Shape]:
    """What the model takes, by the name the settings give it."""
    if settings.model == "builtin":
        return {}
    from provision.phases.stage import Store  # noqa: PLC0415 - the built-in model needs none of it
    from provision.phases.stage.model_description import describe  # noqa: PLC0415 - the built-in model needs none of it

    try:
        shape = describe(settings, Store(cache_folder()))
    except StageError as error:
        raise ModelError(
            f"whether model `{settings.model}` fits cannot be judged: {error.text}", hint=error.hint
        ) from None
    return {settings.model: shape} if shape else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"`{path}` cannot be read: {error}", hint="record facts with ./firstlight probe --json > FILE"
        ) from None


def print_why_not(
    asked: str,
    facts: Mapping[str, HostFacts],
    settings: Mapping[str, Settings],
    become: set[str],
    shapes: Mapping[str, Shape],
    *,
    as_json: bool,
) -> None:
    """Every rule's word on one release, and what would make it possible."""
    from provision.phases.plan.why_not import render, why_not  # noqa: PLC0415 - only for this question

    answers = why_not(asked, facts, settings, become=become, shapes=shapes)
    write_stdout(
        json.dumps([answer.model_dump(mode="json") for answer in answers], indent=2) if as_json else render(answers)
    )


def print_plan(
    plan: Plan,
    facts: Mapping[str, HostFacts],
    settings: Mapping[str, Settings],
    become: set[str],
    *,
    as_json: bool,
    explain: bool,
    missing: Sequence[Mapping[str, Any]] = (),
) -> None:
    """The plan as people or scripts read it; `missing` are hosts that could not be planned, each with why."""
    from provision.phases.plan.document import to_json  # noqa: PLC0415 - only commands that plan pay for it
    from provision.phases.plan.explain import render  # noqa: PLC0415 - only commands that plan pay for it

    if as_json:
        write_stdout(json.dumps(to_json(plan) | ({"missing": list(missing)} if missing else {}), indent=2))
    else:
        write_stdout(render(plan, facts, settings, become=become, explain=explain))
