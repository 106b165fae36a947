"""What gateways remember of hosts is desired state: a run compares it, and corrects what an earlier one left behind."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from provision.core import features
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.features.gateway.draining import Answers, ask
from provision.features.gateway.traffic import Traffic
from provision.run.context import RunContext

NO_ROLLOUT = "its share of requests was that of a rollout that is over: it gets requests like the others again"


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
