"""The gate of a rollout: hosts are observed until a statistical test has decided."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from provision.core.models.records import PhaseResult
from provision.core.models.rollout import Decision
from provision.core.run_folder import utc_now
from provision.fleet.rollout.gate import Observed, decide, thresholds
from provision.pipeline.context import RunContext
from provision.pipeline.results import ProbedHosts
from provision.pipeline.rollback import live_states, readiness_of

SAMPLE_DEADLINE_S = 600.0
PAUSE_S = 1.0
"""Seconds between two rounds while a step is held longer than its tests need."""


@dataclass(frozen=True)
class GateResult(ProbedHosts):
    """Hosts that were observed, and what that decided."""

    decision: Decision = field(default_factory=lambda: Decision(step=0, at="", verdict="undecided", text=""))


def gate(
    context: RunContext, probed: ProbedHosts, *, new: Sequence[str], old: str | None, step: int, hold_s: float
) -> GateResult:
    """Observe hosts of the new release beside one of the old one, by synthetic requests and by their own counters.

    Rounds are repeated until the test of failed requests decides, and `hold_s` seconds have passed. Synthetic requests fill
    up where the traffic of clients is thin.

    Args:
        context: The run.
        probed: The hosts.
        new: Hosts that serve the new release.
        old: A host that still serves the old one; None where there is none.
        step: Index of the step in the rollout.
        hold_s: Seconds that the step lasts at least.
    """
    from provision.phases.serve.readiness import sample

    started = time.monotonic()
    hosts = [host for host in context.hosts() if host.name in (*new, old)]
    requests = {
        name: request
        for name, state in live_states(context, probed, hosts).items()
        if (request := readiness_of(state)) is not None
    }
    seen: dict[str, Observed] = {}
    counters: dict[str, dict[str, float]] = {}
    reasons: list[str] = []
    while True:
        asked = [host for host in context.hosts() if host.name in requests]
        found = context.run_on_hosts(
            "serve",
            asked,
            lambda host: sample(
                context.session(host),
                prefix=probed.install_paths[host.name].prefix,
                root=probed.install_paths[host.name].root,
                request=requests[host.name],
                wanted=thresholds()["sampling"],
            ),
            deadline_s=SAMPLE_DEADLINE_S,
        )
        for name, answer in found.items():
            seen[name] = seen.get(name, Observed()).plus(observed(answer, counters.get(name)))
            counters[name] = answer["counters"]
            reasons += [reason for reason in answer["reasons"] if reason not in reasons] if name in new else []
        lost = [name for name in new if name not in found]
        if lost:
            decision = Decision(step=step, at=utc_now(), verdict="roll back", text=f"{', '.join(lost)} cannot be asked")
            break
        together = Observed()
        for name in new:
            together = together.plus(seen[name])
        reference = seen.get(old) if old is not None else None
        verdict, text = decide(together, reference)
        held = time.monotonic() - started >= hold_s
        if verdict == "roll back" or (verdict == "go on" and held):
            times = {"new": together.median_s, "old": reference.median_s if reference else None}
            decision = Decision(
                step=step,
                at=utc_now(),
                verdict=verdict,
                text="; ".join([text, *reasons[:1]]) if verdict == "roll back" else text,
                requests=together.requests,
                failed=together.failed,
                first_token_s={name: round(value, 4) for name, value in times.items() if value is not None},
            )
            break
        context.run.event("observed", requests=together.requests, failed=together.failed, text=text)
        if verdict == "go on":
            time.sleep(PAUSE_S)
    for host in context.hosts():
        context.record(PhaseResult(host=host.name, phase="serve", status="ok", text="observed"))
    context.run.write("gate.json", decision)
    return GateResult(**vars(probed), decision=decision)


def observed(answer: dict[str, Any], before: dict[str, float] | None) -> Observed:
    """Return what one round has shown.

    The counters of the server hold the synthetic requests too. A request that only the client saw fail, such as a stream
    that broke, counts as well.

    Args:
        answer: What the host answered to a round.
        before: The server's counters after the round before; None in the first round, or where it has none.
    """
    now = answer["counters"]
    grown = {name: max(now[name] - before[name], 0.0) for name in now} if now and before else {}
    failed = max(answer["failed"], int(grown.get("failed", 0)))
    requests = max(answer["sent"], int(grown.get("finished", 0) + grown.get("failed", 0)), failed)
    return Observed(requests, failed, tuple(answer["first_token_s"]))
