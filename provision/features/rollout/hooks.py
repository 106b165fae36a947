"""Where rollouts take part in the work of the core."""

import contextlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from provision.core.errors import HostLockedError, UsageError
from provision.core.redaction import scrub
from provision.core.run_folder import RunFolder
from provision.features.rollout.model import (
    OPEN,
    Decision,
    HostProgress,
    Move,
    Rollout,
    RolloutHost,
    RolloutState,
    with_moves,
)
from provision.features.rollout.steps import STAGING
from provision.features.rollout.store import RolloutStore
from provision.features.rollout.text import since
from provision.phases.probe.failure_evidence import Source
from provision.pipeline.diagnosis import EarlierRun, source_of_run
from provision.pipeline.failure_evidence import failed_results
from provision.pipeline.runner import RunOutcome
from provision.report.layout import fold_names
from provision.report.page.hosts import Tone
from provision.report.page.view import Section
from provision.report.run_files import results_of

PAGE = Path(__file__).with_name("page.html")


def rolled_back(logs: Path, outcome: RunOutcome) -> None:
    """Let the record of the newest rollout say which of its hosts a run has taken back."""
    facts = outcome.result.facts
    moves = {
        host.name: Move(source=before.release, target=host.release)
        for host in outcome.summary.hosts
        if not any(result.has_failed for result in host.phases.values())
        and host.name in facts
        and (before := facts[host.name].installed) is not None
    }
    # The hosts are where they are, whatever becomes of the note.
    with contextlib.suppress(UsageError, HostLockedError, OSError):
        RolloutStore(logs).revise_newest(lambda rollout: with_moves(rollout, moves, outcome.summary.run))


def steers_shares(logs: Path) -> bool:
    """Return whether a rollout is open, or may be: its record is damaged."""
    try:
        newest = RolloutStore(logs).newest()
    except UsageError:
        return True
    return newest is not None and newest.state in OPEN


def earlier_failure(logs: Path, host: str, newest: str) -> EarlierRun | None:
    """Return the failure of a host in the rollout that its newest run belongs to; None without one."""
    try:
        rollout = RolloutStore(logs).with_run(newest)
    except UsageError:
        return None
    if rollout is None or rollout.state == "done":
        return None
    why = f"the newest that worked on it, {newest}, did not fail, and belongs to rollout {rollout.name}, which is not done"
    for name in reversed(rollout.runs):
        run = logs / name
        if failed := failed_results(results_of(RunFolder(run)).get(host, {})):
            return EarlierRun(source_of_run(run, failed), f"run {name}, in which it failed: {why}")
    refused = next((one for one in reversed(rollout.decisions) if one.verdict == "roll back"), None)
    if refused is None or not any(one.name == host and one.after for one in rollout.hosts):
        return None
    return EarlierRun(Source("last_run", f"{refused.text}\n"), f"run {refused.run}, in which the gate decided: {why}")


STATE_TONES: dict[RolloutState, Tone] = {"done": "good", "paused": "warning", "rolled back": "bad", "failed": "bad"}
GATE_TONES: dict[str, Tone] = {"go on": "good", "undecided": "warning", "roll back": "bad"}
HOST_WORDS: dict[HostProgress, tuple[Tone, str]] = {
    "waiting": ("neutral", "not changed"),
    "changing": ("warning", "being changed"),
    "updated": ("good", "on the new release"),
    "failed": ("bad", "failed"),
    "returned": ("neutral", "back on the old release"),
    "quarantined": ("warning", "left out: quarantined"),
}
FIGURES = ("requests", "failed", "first token: new", "old", "between tokens: new", "old", "answers compared", "differ")


def page_section(run: RunFolder) -> Section | None:
    """Return what the page of a run shows of the rollout that it belongs to; None where it belongs to none, or its record is damaged."""
    try:
        found = RolloutStore(run.logs).with_run(run.name)
    except UsageError:
        return None
    if found is None:
        return None
    rollout = Rollout.model_validate(scrub(found.model_dump()))
    view = {
        "name": rollout.name,
        "part": f"run {rollout.runs.index(run.name) + 1} of {len(rollout.runs)}",
        "state": rollout.state,
        "tone": STATE_TONES.get(rollout.state, "neutral"),
        "text": "; ".join(filter(None, (rollout.text, since(rollout)))) or None,
        "steps": [*_steps(rollout)],
        "hosts": [*_hosts(rollout)],
        "FIGURES": FIGURES,
    }
    return Section("rollout", "Rollout", PAGE, {"rollout": view})


def _steps(rollout: Rollout) -> Iterator[dict[str, Any]]:
    """Return a row for each decision after a step, and for a step without one."""
    for index, percent in enumerate(rollout.steps):
        # A step may give more requests to hosts that changed before.
        hosts = fold_names([host.name for host in rollout.of_step(index)]) or "no further one"
        row = {"step": f"{percent} %" if percent else STAGING, "hosts": hosts}
        decisions = [one for one in rollout.decisions if one.step == index]
        for one in decisions:
            yield row | {"tone": GATE_TONES[one.verdict], "gate": one.verdict, "figures": [*_figures(one)]}
        if not decisions:
            yield row | {"tone": "neutral", "gate": "no decision", "figures": []}


def _figures(decision: Decision) -> Iterator[str]:
    yield f"{decision.requests:,}"
    yield f"{decision.failed:,}"
    for times, digits in ((decision.first_token_s, 0), (decision.inter_token_s, 1)):
        yield from (f"{times[side] * 1000:.{digits}f} ms" if side in times else "" for side in ("new", "old"))
    of = f" of {decision.answers + decision.left_out}" if decision.left_out else ""
    yield f"{decision.answers}{of}" if decision.answers or of else ""
    yield str(decision.differing) if decision.answers else ""


def _hosts(rollout: Rollout) -> Iterator[dict[str, str]]:
    def alike(host: RolloutHost) -> tuple[HostProgress, str, str, str]:
        return host.state, host.before or "", host.after or "", host.returned_to or ""

    for (state, before, after, returned_to), hosts in groupby(sorted(rollout.hosts, key=alike), key=alike):
        tone, words = HOST_WORDS[state]
        if returned_to:
            words = f"taken back by rollback to {'the old release' if returned_to == before else returned_to}"
        names = fold_names([host.name for host in hosts])
        yield {"hosts": names, "tone": tone, "words": words, "before": before, "after": after}
