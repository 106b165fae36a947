"""The answer for one class: the best Stack with its reasons, or the refusal with the nearest change."""

from __future__ import annotations

from functools import cache

from provision.core.models.stack import Candidate, Nearest, Reason, Resolution
from provision.phases.plan.assemble import stack_of
from provision.phases.plan.evaluation import HOST, Evaluation, evaluate_host, evaluations, reason
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.suggestion import nearest, upgrade_brings


def choose(profile: HostProfile, hosts: tuple[str, ...]) -> Resolution:
    """The resolution of one class of hosts: what was chosen, what comes next, and why nothing before it was."""
    host = evaluate_host(profile)
    results = list(evaluations(profile)) if host.accepted else []
    best = next((result for result in results if result.accepted), None)
    if best is None:
        return _refusal(profile, hosts, host, results)
    before = results[: results.index(best)]
    told = [*before, *(result for result in results if result.accepted)]
    reasons = [*_reasons(host, ("accept", "warn")), *_reasons(best, ("accept", "warn"))]
    reasons += [item for result in before for item in _reasons(result, ("reject",))]
    brings = upgrade_brings(profile, best)
    if brings:
        reasons.append(brings)
    candidates = _candidates(told, profile)
    return Resolution(
        hosts=hosts,
        stack=candidates[0].stack,
        reasons=tuple(reasons),
        assumptions=_assumptions(host, best),
        candidates=candidates,
    )


def _refusal(profile: HostProfile, hosts: tuple[str, ...], host: Evaluation, results: list[Evaluation]) -> Resolution:
    furthest = sorted(results, key=lambda result: -len(result.verdicts))
    refusals = [*_reasons(host, ("reject",)), *(item for result in furthest for item in _reasons(result, ("reject",)))]
    if not refusals:
        text = f"no vLLM build in the catalog is `vllm: {profile.policy.vllm}` for {profile.platform}"
        if profile.policy.torch == "existing":
            held = " and ".join(python.torch for python in profile.interpreters.pythons if python.torch)
            text = (
                f"no vLLM release in the catalog that is `vllm: {profile.policy.vllm}` pins torch {held}, the host's own"
                if profile.policy.wants_vllm
                else f"the catalog knows no torch {held}, the host's own"
            )
        elif not profile.policy.wants_vllm:
            text = f"no torch variant in the catalog is for ROCm {profile.rocm}"
        facts = {"vllm": profile.policy.vllm, "platform": profile.platform, "rocm": profile.rocm}
        refusals = [Reason(rule="vllm-requested", verdict="reject", candidate=HOST, facts=facts, text=text)]
    return Resolution(
        hosts=hosts,
        stack=None,
        reasons=tuple(refusals),
        assumptions=_assumptions(host, *results[:1]),
        candidates=_candidates(results, profile),
        nearest=nearest(profile)
        or Nearest(text="no one or two changes of settings, driver, memory or disk open a Stack for this host"),
    )


def _reasons(result: Evaluation, kinds: tuple[str, ...]) -> list[Reason]:
    name = result.option.id if result.option else HOST
    return [reason(rule, verdict, name) for rule, verdict in result.verdicts if verdict.kind in kinds]


def _assumptions(*results: Evaluation) -> tuple[str, ...]:
    texts = [verdict.text for result in results for _, verdict in result.verdicts if verdict.kind == "assume"]
    return tuple(dict.fromkeys(texts))


def _candidates(results: list[Evaluation], profile: HostProfile) -> tuple[Candidate, ...]:
    ranked = sorted(results, key=lambda result: not result.accepted)
    return tuple(
        Candidate(id=result.option.id, rank=rank, accepted=True, stack=stack_of(result.option, profile))
        if result.accepted
        else _refused(result.option.id, rank)
        for rank, result in enumerate(ranked, 1)
        if result.option is not None
    )


@cache
def _refused(name: str, rank: int) -> Candidate:
    return Candidate(id=name, rank=rank, accepted=False)
