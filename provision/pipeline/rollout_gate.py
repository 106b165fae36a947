"""The gate of a rollout: hosts are observed until a statistical test has decided."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from provision.core.models.records import PhaseResult
from provision.core.models.rollout import Decision
from provision.core.models.settings import Host
from provision.core.run_folder import utc_now
from provision.fleet.rollout.gate import Observed, Verdict, decide, thresholds
from provision.pipeline.context import RunContext
from provision.pipeline.results import ProbedHosts
from provision.pipeline.rollback import live_states, readiness_of

SAMPLE_DEADLINE_S = 600.0
PAUSE_S = 5.0
"""Seconds between two rounds while a step is held longer than its first test needs; they send few requests."""


@dataclass(frozen=True)
class GateResult(ProbedHosts):
    """Hosts that were observed, and what that decided."""

    decision: Decision = field(default_factory=lambda: Decision(step=0, at="", verdict="undecided", text=""))


def gate(
    context: RunContext, probed: ProbedHosts, *, new: Sequence[str], old: str | None, step: int, hold_s: float
) -> GateResult:
    """Observe hosts of the new release beside one of the old one, by synthetic requests and by their own counters.

    Rounds are repeated until the test of failed requests decides, and `hold_s` seconds have passed; meanwhile the test begins
    anew each time that it was passed. Synthetic requests fill up where the traffic of clients is thin.

    Args:
        context: The run.
        probed: The hosts.
        new: Hosts that serve the new release.
        old: A host that still serves the old one; None where there is none.
        step: Index of the step in the rollout.
        hold_s: Seconds that the step lasts at least.
    """
    started = time.monotonic()
    hosts = [host for host in context.hosts() if host.name in (*new, old)]
    requests = {
        name: request
        for name, state in live_states(context, probed, hosts).items()
        if (request := readiness_of(state)) is not None
    }
    seen, window = dict[str, Observed](), Observed()
    counters: dict[str, dict[str, float]] = {}
    reasons: list[str] = []
    passed: str | None = None
    wanted = thresholds()["sampling"]
    while True:
        found = _ask(context, probed, requests, wanted)
        lost = [name for name in new if name not in found]
        if lost:
            decision = Decision(step=step, at=utc_now(), verdict="roll back", text=f"{', '.join(lost)} cannot be asked")
            break
        for name, answer in found.items():
            shown = observed(answer, counters.get(name))
            seen[name], counters[name] = seen.get(name, Observed()).plus(shown), answer["counters"]
            if name in new:
                window = window.plus(shown)
                reasons += [reason for reason in answer["reasons"] if reason not in reasons]
        reference = seen.get(old) if old is not None else None
        verdict, text = decide(window, reference)
        context.run.event("observed", requests=window.requests, failed=window.failed, verdict=verdict, text=text)
        if verdict == "go on":
            # The test begins anew: what was good for an hour must not outweigh what is bad now.
            passed, window, wanted = text, Observed(), wanted | {"requests": wanted["concurrent"]}
        if verdict == "roll back" or (passed is not None and time.monotonic() - started >= hold_s):
            text = "; ".join([text, *reasons[:1]]) if verdict == "roll back" else str(passed)
            decision = _decision(step, verdict, text, [seen[name] for name in new], reference)
            break
        if passed is not None:
            time.sleep(PAUSE_S)
    for host in context.hosts():
        context.record(PhaseResult(host=host.name, phase="serve", status="ok", text="observed"))
    context.run.write("gate.json", decision)
    return GateResult(**vars(probed), decision=decision)


def _ask(
    context: RunContext, probed: ProbedHosts, requests: Mapping[str, dict[str, Any]], wanted: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Make one round: synthetic requests on every host that answered so far."""
    from provision.phases.serve.readiness import sample

    def call(host: Host) -> dict[str, Any]:
        paths = probed.install_paths[host.name]
        session = context.session(host)
        return sample(session, prefix=paths.prefix, root=paths.root, request=requests[host.name], wanted=wanted)

    asked = [host for host in context.hosts() if host.name in requests]
    return context.run_on_hosts("serve", asked, call, deadline_s=SAMPLE_DEADLINE_S)


def _decision(step: int, verdict: Verdict, text: str, new: Sequence[Observed], old: Observed | None) -> Decision:
    """Return the decision with all that was observed, also before the last test began."""
    together = reduce(Observed.plus, new)
    times = {"new": together.median_s, "old": old.median_s if old is not None else None}
    return Decision(
        step=step,
        at=utc_now(),
        verdict="roll back" if verdict == "roll back" else "go on",
        text=text,
        requests=together.requests,
        failed=together.failed,
        first_token_s={name: round(value, 4) for name, value in times.items() if value is not None},
    )


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
