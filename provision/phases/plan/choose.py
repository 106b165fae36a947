"""The plan of all hosts. Hosts with equal profiles form one class, which gets the best Stack with its reasons, or the refusal with the nearest change."""

from collections.abc import Collection, Mapping
from types import MappingProxyType

from provision.core.errors import UsageError
from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings
from provision.core.models.stack import Candidate, Nearest, Plan, Reason, Resolution
from provision.phases.plan.assemble import stack_of
from provision.phases.plan.evaluation import HOST, Evaluation, evaluate_host, evaluations
from provision.phases.plan.fit.shape import Shape, shape_for
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.policy import NEWER_RELEASES, GivenWheel
from provision.phases.plan.profile_builder import profile_of
from provision.phases.plan.suggestion import nearest, upgrade_benefit


def choose_stacks(
    facts: Mapping[str, HostFacts],
    settings: Mapping[str, Settings],
    *,
    become: Collection[str] = (),
    shapes: Mapping[str, Shape] = MappingProxyType({}),
    wheels: Mapping[str, GivenWheel] = MappingProxyType({}),
) -> Plan:
    """Return the plan for all hosts, in the given order. It reads the catalog, but no network and no clock.

    Args:
        settings: Settings by host.
        become: Hosts on which the inventory lets installation become root.
        shapes: The users' models and draft models, by their name in the settings.
        wheels: The wheels of vLLM that settings name, by host.

    Raises:
        UsageError: Two settings of a host contradict each other.
    """
    found = classes(facts, settings, become=become, shapes=shapes, wheels=wheels)
    return Plan(classes=tuple(choose(profile, tuple(hosts)) for profile, hosts in found.items()))


def classes(
    facts: Mapping[str, HostFacts],
    settings: Mapping[str, Settings],
    *,
    become: Collection[str] = (),
    shapes: Mapping[str, Shape] = MappingProxyType({}),
    wheels: Mapping[str, GivenWheel] = MappingProxyType({}),
) -> dict[HostProfile, list[str]]:
    """Return the hosts by profile, in the given order. Arguments and errors are those of `plan`."""
    found: dict[HostProfile, list[str]] = {}
    for name, host_facts in facts.items():
        try:
            shape = shape_for(settings[name], shapes)
            wheel = wheels.get(name)
            profile = profile_of(host_facts, settings[name], escalates=name in become, shape=shape, wheel=wheel)
        except UsageError as error:
            raise UsageError(f"host `{name}`: {error.text}", hint=error.hint) from None
        found.setdefault(profile, []).append(name)
    return found


def choose(profile: HostProfile, hosts: tuple[str, ...]) -> Resolution:
    """Return the resolution of one class of hosts: the chosen Stack, the next candidates, and the refusals before it."""
    host = evaluate_host(profile)
    results = list(evaluations(profile)) if host.accepted else []
    best = next((result for result in results if result.accepted), None)
    if best is None:
        return _refusal(profile, hosts, host, results)
    before = results[: results.index(best)]
    listed = [*before, *(result for result in results if result.accepted)]
    reasons = [*host.reasons("accept", "warn"), *best.reasons("accept", "warn")]
    reasons += [reason for result in before for reason in result.reasons("reject")]
    benefit = upgrade_benefit(profile, best)
    if benefit:
        reasons.append(benefit)
    candidates = _candidates(listed, profile)
    return Resolution(
        hosts=hosts,
        stack=candidates[0].stack,
        reasons=tuple(reasons),
        assumptions=_assumptions(host, best),
        candidates=candidates,
    )


def _refusal(profile: HostProfile, hosts: tuple[str, ...], host: Evaluation, results: list[Evaluation]) -> Resolution:
    furthest = sorted(results, key=lambda result: -len(result.verdicts))
    refusals = [reason for result in (host, *furthest) for reason in result.reasons("reject")]
    if not refusals:
        facts = {"vllm": profile.policy.vllm, "platform": profile.platform, "rocm": profile.rocm}
        text = _without_candidate(profile)
        refusals = [Reason(rule="vllm-requested", verdict="reject", candidate=HOST, facts=facts, text=text)]
    change = nearest(profile) or Nearest(
        text="no one or two changes of settings, driver, memory or disk make a combination of versions possible on this host"
    )
    return Resolution(
        hosts=hosts,
        stack=None,
        reasons=tuple(refusals),
        assumptions=_assumptions(host, *results[:1]),
        candidates=_candidates(results, profile),
        nearest=change,
    )


def _without_candidate(profile: HostProfile) -> str:
    """Return what the settings request that the catalog does not have."""
    policy = profile.policy
    if given := profile.given:
        return f"`{given.file.name}` is built for {given.build.variant} with torch {given.release.torch}, which this host or `--torch` excludes"
    present = " and ".join(python.torch for python in profile.usable_pythons if python.torch)
    torch = f" with torch {policy.torch_version or present}" if policy.torch_version or present else ""
    newer = f"; {NEWER_RELEASES}" if policy.wants_vllm else ""
    where = f"ROCm {profile.rocm}" if profile.rocm else profile.platform
    return f"the catalog has no build for `--vllm {policy.vllm}` on {where}{torch}{newer}"


def _assumptions(*results: Evaluation) -> tuple[str, ...]:
    texts = [verdict.text for result in results for _, verdict in result.verdicts if verdict.kind == "assume"]
    return tuple(dict.fromkeys(texts))


def _candidates(results: list[Evaluation], profile: HostProfile) -> tuple[Candidate, ...]:
    ranked = sorted(results, key=lambda result: not result.accepted)
    return tuple(
        Candidate(
            id=result.option.id,
            rank=rank,
            accepted=result.accepted,
            stack=stack_of(result.option, profile) if result.accepted else None,
        )
        for rank, result in enumerate(ranked, 1)
        if result.option is not None
    )
