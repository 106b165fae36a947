"""The share of requests that hosts of a rollout get at gateways, by a draw for each request."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from provision.features.gateway.draining import ask, record
from provision.features.gateway.traffic import Traffic
from provision.run.context import RunContext
from provision.run.results import ProbedHosts


@dataclass(frozen=True)
class CanaryHosts(ProbedHosts):
    """What became of a wish for canaries."""

    error: str | None = None
    """Why a gateway does not have the shares."""


def shares(traffics: Iterable[Traffic], names: Sequence[str], joining: Sequence[str], percent: float) -> dict[str, int]:
    """Return the share of each canary in ten-thousandths of its model's requests; it is 0 of hosts that are about to join.

    Hosts of one model get equal parts of the percentage. A model without another host in traffic has no canaries: somebody has to
    take the other requests.
    """
    found: dict[str, int] = {}
    for traffic in traffics:
        canaries = {*names, *joining}
        ours = [one for one in traffic.hosts if one.host in canaries and traffic.in_traffic(one.model) - canaries]
        counts = Counter(one.model for one in ours if one.host in names)
        found |= {one.host: round(percent * 100 / counts[one.model]) if one.host in names else 0 for one in ours}
    return found


def set_shares(
    context: RunContext,
    probed: ProbedHosts,
    *,
    names: Sequence[str],
    joining: Sequence[str],
    percent: float,
    out: Sequence[str] = (),
) -> CanaryHosts:
    """Make hosts the canaries of all gateways, and no others; without names there are none any more.

    Hosts in `out` get no requests until a run has proven them, as long as their model has others.
    """
    gateways, text = context.hosts(), ""
    answers = ask(context, gateways)
    if not answers.errors:
        wanted = shares(answers.traffics.values(), names, joining, percent)
        drained = [*shares(answers.traffics.values(), [], out, 0)]
        answers = ask(context, gateways, drain=drained, by="run", canary=wanted)
        context.run.event("canary", shares=wanted)
        given = [f"{share / 100:g} % of requests to {host}" for host, share in wanted.items()]
        given += [f"no requests to {name} until a run has verified it" for name in drained]
        text = ", ".join(given) or "no host has a share of its own"
    record(context, answers, changed=True, text=text)
    return CanaryHosts(**vars(probed), error="; ".join(map(str, answers.errors.values())) or None)
