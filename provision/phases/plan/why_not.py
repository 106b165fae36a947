"""Why a release was not chosen: every rule's word on each of its builds, and what would make one of them possible."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from provision.catalog import catalog
from provision.catalog.versions import release
from provision.core.errors import UsageError
from provision.core.models.base import Record
from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings
from provision.core.models.stack import Nearest, Reason
from provision.phases.plan.build_option import options
from provision.phases.plan.choose import choose
from provision.phases.plan.evaluation import Evaluation, evaluate_host, evaluate_whole, reason
from provision.phases.plan.host_classes import classes
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.suggestion import nearest
from provision.phases.plan.trace import Sources, verdicts

if TYPE_CHECKING:
    from provision.phases.plan.fit import Shape

_GRAMMAR = re.compile(r"vllm==(\S+)")


class RuleVerdict(Record):
    """One build, or the host itself (`host`), with what every rule said, also after the first refusal."""

    candidate: str
    accepted: bool
    reasons: tuple[Reason, ...]


class WhyNot(Record):
    """The answer for one class of hosts. `nearest` is null where a build of the release is possible as it is."""

    asked: str
    hosts: tuple[str, ...]
    chosen: str | None
    """The candidate that the plan takes; null when nothing fits."""
    judgements: tuple[RuleVerdict, ...]
    nearest: Nearest | None


def why_not(
    asked: str,
    facts: Mapping[str, HostFacts],
    settings: Mapping[str, Settings],
    *,
    become: Collection[str] = (),
    shapes: Mapping[str, Shape] = MappingProxyType({}),
) -> list[WhyNot]:
    """One answer a class of hosts to `vllm==X`. Raises UsageError when it is not that, or the catalog has no such release."""
    version = _version(asked)
    found = classes(facts, settings, become=become, shapes=shapes)
    return [_answer(version, profile, tuple(hosts)) for profile, hosts in found.items()]


def render(answers: list[WhyNot]) -> str:
    """The answers as people read them."""
    return "\n\n".join("\n".join(_lines(answer)) for answer in answers) + "\n"


def _answer(version: str, profile: HostProfile, hosts: tuple[str, ...]) -> WhyNot:
    pinned = replace(profile, policy=replace(profile.policy, vllm=f"=={version}"))
    host = evaluate_host(pinned)
    evaluations = [evaluate_whole(option, pinned) for option in options(pinned)]
    possible = host.accepted and any(result.accepted for result in evaluations)
    chosen = next((candidate.id for candidate in choose(profile, hosts).candidates if candidate.accepted), None)
    return WhyNot(
        asked=f"vllm=={version}",
        hosts=hosts,
        chosen=chosen,
        judgements=tuple(_evaluation(result) for result in (host, *evaluations)),
        nearest=None if possible else nearest(pinned, kept=("vllm",)),
    )


def _evaluation(result: Evaluation) -> RuleVerdict:
    name = result.option.id if result.option else "host"
    said = tuple(reason(rule, verdict, name) for rule, verdict in result.verdicts if verdict.kind != "assume")
    return RuleVerdict(candidate=name, accepted=result.accepted, reasons=said)


def _version(asked: str) -> str:
    match = _GRAMMAR.fullmatch(asked)
    if not match:
        raise UsageError(f"`--why-not {asked}` is not understood", hint="name one release: --why-not vllm==0.33.0")
    known = sorted((row.version for row in catalog().releases), key=release)
    if match[1] not in known:
        raise UsageError(
            f"the catalog has no vLLM {match[1]}; its newest is {known[-1]}, its oldest {known[0]}",
            hint="./firstlight catalog refresh adds what your index has since",
        )
    return match[1]


def _lines(answer: WhyNot) -> list[str]:
    sources = Sources()
    lines = [f"why not {answer.asked} on {', '.join(answer.hosts)}?"]
    for judgement in answer.judgements:
        against = [reason for reason in judgement.reasons if reason.verdict == "reject"]
        fits = "fits" if judgement.accepted else f"does not fit: {len(against)} against it"
        if judgement.candidate == "host":
            fits = "lets Stacks of this kind be" if judgement.accepted else "lets none be"
        ordered = [*against, *(reason for reason in judgement.reasons if reason.verdict != "reject")]
        lines += ["", f"    {judgement.candidate} {fits}", *verdicts(ordered, sources)]
    if len(answer.judgements) == 1:
        lines += ["", f"    the catalog has no build of {answer.asked} for this kind of host"]
    possible = (
        [item.candidate for item in answer.judgements[1:] if item.accepted] if answer.judgements[0].accepted else []
    )
    lines.append("")
    if answer.chosen in possible:
        lines.append(f"  It is what the plan takes: {answer.chosen}.")
    elif possible:
        lines.append(f"  It is possible: {possible[0]}. The plan takes {answer.chosen}, which comes before it.")
    else:
        lines.append(
            f"  To make it possible: {answer.nearest.text if answer.nearest else 'no change of one or two settings does'}."
        )
    return [*lines, *sources.lines()]
