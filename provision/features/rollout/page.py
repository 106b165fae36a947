"""The rollout that a run belongs to: its steps with what the gate decided by which numbers, and its hosts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from provision.core.errors import UsageError
from provision.core.redaction import scrub
from provision.core.run_folder import RunFolder
from provision.features.rollout.model import Decision, HostProgress, Rollout, RolloutHost, RolloutState
from provision.features.rollout.steps import STAGING
from provision.features.rollout.store import RolloutStore
from provision.features.rollout.text import since
from provision.report.layout import fold_names
from provision.report.page.hosts import Tone

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


@dataclass(frozen=True)
class StepRow:
    """One decision after a step, or a step without one."""

    step: str
    hosts: str
    """Names of the hosts that it changes; a step may give more requests to those that changed before."""
    tone: Tone
    gate: str
    figures: tuple[str, ...]
    """What was observed, in the order of `FIGURES`; empty without a decision."""


FIGURES = ("requests", "failed", "first token: new", "old", "between tokens: new", "old", "answers compared", "differ")


@dataclass(frozen=True)
class HostsRow:
    """Hosts of which the same is to be said."""

    hosts: str
    tone: Tone
    words: str
    before: str
    after: str


@dataclass(frozen=True)
class RolloutView:
    """A rollout as the page shows it."""

    name: str
    part: str
    """Which of its runs this one is."""
    state: str
    tone: Tone
    text: str | None
    steps: tuple[StepRow, ...]
    hosts: tuple[HostsRow, ...]
    FIGURES = FIGURES


def rollout_of(run: RunFolder) -> RolloutView | None:
    """Return the rollout of a run as it is now; None where the run belongs to none, or its record is damaged."""
    try:
        found = RolloutStore(run.logs).with_run(run.name)
    except UsageError:
        return None
    return rollout_view(Rollout.model_validate(scrub(found.model_dump())), run.name) if found else None


def rollout_view(rollout: Rollout, run: str) -> RolloutView:
    """Return what the page of one of its runs shows of a rollout."""
    return RolloutView(
        name=rollout.name,
        part=f"run {rollout.runs.index(run) + 1} of {len(rollout.runs)}",
        state=rollout.state,
        tone=STATE_TONES.get(rollout.state, "neutral"),
        text="; ".join(filter(None, (rollout.text, since(rollout)))) or None,
        steps=tuple(_steps(rollout)),
        hosts=tuple(_hosts(rollout)),
    )


def _steps(rollout: Rollout) -> Iterator[StepRow]:
    for index, percent in enumerate(rollout.steps):
        step = f"{percent} %" if percent else STAGING
        hosts = fold_names([host.name for host in rollout.of_step(index)]) or "no further one"
        decisions = [one for one in rollout.decisions if one.step == index]
        for one in decisions:
            yield StepRow(step, hosts, GATE_TONES[one.verdict], one.verdict, tuple(_figures(one)))
        if not decisions:
            yield StepRow(step, hosts, "neutral", "no decision", ())


def _figures(decision: Decision) -> Iterator[str]:
    yield f"{decision.requests:,}"
    yield f"{decision.failed:,}"
    for times, digits in ((decision.first_token_s, 0), (decision.inter_token_s, 1)):
        yield from (_milliseconds(times, side, digits) for side in ("new", "old"))
    of = f" of {decision.answers + decision.left_out}" if decision.left_out else ""
    yield f"{decision.answers}{of}" if decision.answers or of else ""
    yield str(decision.differing) if decision.answers else ""


def _milliseconds(times: Mapping[str, float], side: str, digits: int) -> str:
    return f"{times[side] * 1000:.{digits}f} ms" if side in times else ""


def _hosts(rollout: Rollout) -> Iterator[HostsRow]:
    def alike(host: RolloutHost) -> tuple[HostProgress, str, str, str]:
        return host.state, host.before or "", host.after or "", host.returned_to or ""

    for (state, before, after, returned_to), hosts in groupby(sorted(rollout.hosts, key=alike), key=alike):
        tone, words = HOST_WORDS[state]
        if returned_to:
            words = f"taken back by rollback to {'the old release' if returned_to == before else returned_to}"
        yield HostsRow(fold_names([host.name for host in hosts]), tone, words, before, after)
