"""The traffic of gateways: read and changed over SSH, in one round trip for each gateway.

What gateways remember of hosts is desired state: a run compares it, and corrects what an earlier one left behind.
"""

import shlex
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from provision.core import features
from provision.core.errors import FirstlightError, ServeError
from provision.core.install_paths import HOST_PYTHON, default_prefix
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.features.gateway.traffic import By, Traffic, command_of, left_without_host, parse, refusal, sessions_of
from provision.report.layout import count
from provision.run.context import RunContext
from provision.run.results import AnsweredHosts, ProbedHosts

ASK_DEADLINE_S = 60.0
POLL_S = 1.0
ABSENT = 44
"""Status of our command where the gateway was not set up yet."""
NOTHING = "; nothing was changed"
NO_ROLLOUT = "its share of requests was that of a rollout that is over: it gets requests like the others again"
Action = Literal["drain", "ready"]


class NotSetUpError(ServeError):
    """The gateway was not set up yet, or by a version that could not drain hosts."""


@dataclass(frozen=True)
class Answers:
    """What gateways answered, by name."""

    traffics: dict[str, Traffic] = field(default_factory=dict)
    errors: dict[str, BaseException] = field(default_factory=dict)

    @property
    def silent(self) -> dict[str, BaseException]:
        """Return the errors of gateways that were set up."""
        return {name: error for name, error in self.errors.items() if not isinstance(error, NotSetUpError)}


def folder_of(host: Host) -> str:
    """Return the folder that a gateway keeps its files in; it always belongs to root."""
    prefix = host.settings.prefix or str(default_prefix(uid=0, home="/root"))
    return f"{prefix.rstrip('/')}/gateway"


def ask(
    context: RunContext,
    gateways: Sequence[Host],
    *,
    drain: Sequence[str] = (),
    ready: Sequence[str] = (),
    by: By = "operator",
    canary: Mapping[str, int] | None = None,
) -> Answers:
    """Drain hosts, let others get requests again, and read the figures of gateways. No result is recorded.

    `canary` has all canaries, each with its share in ten-thousandths; None leaves them as they are.
    """
    wish: dict[str, Any] = {"drain": [*drain], "ready": [*ready], "canary": canary}

    def call(host: Host) -> Traffic:
        program = shlex.quote(f"{folder_of(host)}/current/traffic.py")
        command = command_of(python_of(host), folder_of(host), {**wish, "by": by})
        done = context.session(host).run(f"test -e {program} || exit {ABSENT}; {command}", root=True)
        if done.rc == ABSENT:
            raise NotSetUpError(
                f"gateway `{host.name}` is not set up, or by a version that could not drain hosts",
                hint="set it up: ./firstlight gateway",
            )
        return parse(host.name, done.stdout if done.rc == 0 else done.stderr)

    done = context.ask_hosts(gateways, call, deadline_s=ASK_DEADLINE_S)
    for host in gateways if drain or ready or canary is not None else ():
        changed = True if host.name in done.values else None
        context.run.change("traffic", host=host.name, path=f"{folder_of(host)}/drained.json", **wish, changed=changed)
    return Answers(done.values, done.errors)


def python_of(host: Host) -> str:
    """Return the Python of a gateway."""
    return host.connection.python_interpreter or HOST_PYTHON


def status(context: RunContext, probed: ProbedHosts) -> AnsweredHosts[tuple[Traffic, ...]]:
    """Read the figures of all gateways; one that does not answer fails."""
    answers = ask(context, context.hosts())
    record(context, answers)
    return AnsweredHosts(**vars(probed), answer=tuple(answers.traffics.values()))


def record(
    context: RunContext,
    answers: Answers,
    *,
    status: Literal["ok", "skipped"] = "ok",
    changed: bool = False,
    text: str | None = None,
) -> None:
    """Record how asking ended for each gateway."""
    for name, error in answers.errors.items():
        context.fail(name, "serve", error)
    for name in answers.traffics:
        context.record(PhaseResult(host=name, phase="serve", status=status, changed=changed, text=text))


def change(
    context: RunContext,
    probed: ProbedHosts,
    *,
    action: Action,
    names: Sequence[str],
    known: Collection[str],
    within_s: float | None = None,
    force: bool = False,
) -> AnsweredHosts[tuple[Traffic, ...] | FirstlightError]:
    """Drain hosts at all gateways, or take them back: at all of them, or at none. The answer is the traffic after it, or why nothing was changed.

    Args:
        known: All hosts of the inventory, for messages.
        within_s: Seconds that requests of drained hosts get to finish; None for the setting of the gateways.
        force: Whether a model may be left without a host.
    """
    gateways = context.hosts()
    is_drain = action == "drain"
    before = ask(context, gateways)
    traffics = tuple(before.traffics.values())
    for_all = f"{', '.join(names)}: {'drained' if is_drain else 'takes requests again'}"
    error = _combined(before, NOTHING) if before.errors else refusal(traffics, names, known)
    if error is None and is_drain and not force:
        error = left_without_host(traffics, names)
    if error is not None:
        return _nothing(context, probed, before, error)
    after = _set(context, gateways, drain=is_drain, names=names)
    if after.errors:
        stuck = []
        for host in gateways:
            was = before.traffics[host.name].drained()
            # What was drained before stays drained, and what was not does not.
            undone = [name for name in names if (name in was) != is_drain]
            if host.name in after.traffics and _set(context, [host], drain=not is_drain, names=undone).errors:
                stuck.append(host.name)
        at = f"; it was made at {', '.join(stuck)}, and could not be taken back there" if stuck else NOTHING
        return _nothing(context, probed, after, _combined(after, at))
    for name in after.traffics:
        changed = before.traffics[name].drained() != after.traffics[name].drained()
        context.record(PhaseResult(host=name, phase="serve", status="ok", changed=changed, text=for_all))
    if is_drain:
        limit = max(host.settings.gateway_drain_seconds for host in gateways) if within_s is None else within_s
        after = wait_until_empty(context, gateways, names, limit)
    error = _combined(after, f"; {for_all} all the same") if after.errors else None
    return AnsweredHosts(**vars(probed), answer=error or tuple(after.traffics.values()))


def _set(context: RunContext, gateways: Sequence[Host], *, drain: bool, names: Sequence[str]) -> Answers:
    return ask(context, gateways, drain=names if drain else (), ready=() if drain else names)


def _combined(answers: Answers, then: str) -> FirstlightError:
    """Return the errors of gateways as one, which ends with `then`."""
    errors = [
        error if isinstance(error, FirstlightError) else FirstlightError(f"gateway `{name}`: {error}")
        for name, error in answers.errors.items()
    ]
    return FirstlightError("; ".join(error.text for error in errors) + then, hint=errors[0].hint)


def _nothing(
    context: RunContext, probed: ProbedHosts, answers: Answers, error: FirstlightError
) -> AnsweredHosts[tuple[Traffic, ...] | FirstlightError]:
    """Record that nothing was changed, and why."""
    record(context, answers, status="skipped", text=f"nothing was changed: {error.text}")
    return AnsweredHosts(**vars(probed), answer=error)


def wait_until_empty(context: RunContext, gateways: Sequence[Host], names: Sequence[str], within_s: float) -> Answers:
    """Wait until drained hosts work on no request, no gateway answers, or the limit is over; return the last figures."""
    deadline = time.monotonic() + within_s
    while True:
        answers = ask(context, gateways)
        left = sum(sessions_of(answers.traffics.values(), names).values())
        if not left or not answers.traffics or time.monotonic() >= deadline:
            return answers
        for host in gateways:
            context.progress.note(host.name, f"waits for {count(left, 'request')} of {', '.join(names)}")
        time.sleep(min(POLL_S, max(deadline - time.monotonic(), 0)))


def left_shares(context: RunContext, traffics: Iterable[Traffic]) -> dict[str, int]:
    """Return the shares of canaries that no open rollout has, in ten-thousandths, by host."""
    if any(steers(context.run.logs) for steers in features.hooks("steers_shares")):
        return {}
    canaries = [one for traffic in traffics for one in traffic.hosts]
    return {one.host: round(one.canary * 100) for one in canaries if one.canary is not None}


def bring_back(
    context: RunContext,
    gateways: Sequence[Host],
    left: Mapping[str, int],
    *,
    drained: Sequence[str],
    ended: Collection[str],
) -> Answers:
    """Let hosts take requests again that a run may have drained, and end shares of `left_shares`; what an operator drained stays so."""
    shares = {name: share for name, share in left.items() if name not in ended}
    if not drained and shares == left:
        return Answers()
    return ask(context, gateways, ready=drained, by="run", canary=shares if shares != left else None)


def reconcile(context: RunContext, gateways: Sequence[Host]) -> tuple[dict[str, Traffic], dict[str, PhaseResult]]:
    """End shares that no open rollout has, but those of hosts that failed in this run. Return traffics and results of the gateways that answer."""
    before = ask(context, gateways).traffics
    left = left_shares(context, before.values())
    ended = [name for name in left if not context.has_failed(name)]
    after = bring_back(context, gateways, left, drained=[], ended=ended).traffics
    text = f"the share of {', '.join(ended)} was ended: no rollout is open"
    changed = {name: PhaseResult(host=name, phase="serve", status="ok", changed=True, text=text) for name in after}
    return before | after, changed


def kept_out(context: RunContext, gateway: Host, traffic: Traffic) -> list[PhaseResult]:
    """Return a warning where a gateway gives hosts no requests that did not fail in this run, and that no operator drained."""
    names = [one.host for one in traffic.hosts if one.drained_by == "run" and not context.has_failed(one.host)]
    if not names:
        return []
    hint = f"verify them, which brings them back: ./firstlight provision --limit {','.join(names)}"
    text = f"{', '.join(names)}: drained by an earlier run, and verified by none since"
    return [PhaseResult(host=gateway.name, phase="serve", status="warn", text=text, hint=hint)]


def by_operator(traffics: Iterable[Traffic], name: str) -> str | None:
    """Return what is to be said of a host that an operator drained; None of any other."""
    at = [traffic.gateway for traffic in traffics if (one := traffic.of(name)) and one.drained_by == "operator"]
    return f"an operator drained it at the gateway {', '.join(at)}: ./firstlight gateway ready {name}" if at else None
