"""Why a release was not chosen: every verdict on each of its builds, and a change that makes one of them possible."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

from provision.catalog import catalog
from provision.catalog.versions import release
from provision.core.errors import UsageError
from provision.core.models.base import Record
from provision.core.models.stack import Nearest, Reason
from provision.phases.plan.build_option import options
from provision.phases.plan.choose import choose
from provision.phases.plan.evaluation import HOST, evaluate, evaluate_host
from provision.phases.plan.explain import source_lines, verdicts
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.policy import NEWER_RELEASES
from provision.phases.plan.suggestion import nearest
from provision.report.layout import count

_GRAMMAR = re.compile(r"vllm==(\S+)")


class CandidateEvaluation(Record):
    """The verdicts of every rule on one build, or on the host (`host`), also after the first refusal."""

    candidate: str
    accepted: bool
    reasons: tuple[Reason, ...]


class WhyNot(Record):
    """The answer for one class of hosts. `nearest` is None if a build of the release is possible without a change."""

    requested: str
    hosts: tuple[str, ...]
    chosen: str | None
    """The candidate that the plan chooses; None if no combination of versions fits."""
    evaluations: tuple[CandidateEvaluation, ...]
    nearest: Nearest | None


class WhyNotDocument(Record):
    """What `plan --why-not --json` prints."""

    schema_version: Literal[1] = 1
    classes: tuple[WhyNot, ...]


def why_not(requested: str, classes: Mapping[HostProfile, Iterable[str]]) -> list[WhyNot]:
    """Return one answer for each class of hosts.

    Args:
        requested: The release, as `vllm==X`.
        classes: The hosts by profile.

    Raises:
        UsageError: `requested` has another form, or the catalog has no such release.
    """
    version = _version(requested)
    return [_answer(version, profile, tuple(hosts)) for profile, hosts in classes.items()]


def render(answers: list[WhyNot]) -> str:
    """Return the answers as text."""
    return "\n\n".join("\n".join(_lines(answer)) for answer in answers) + "\n"


def _answer(version: str, profile: HostProfile, hosts: tuple[str, ...]) -> WhyNot:
    pinned = replace(profile, policy=replace(profile.policy, vllm=f"=={version}"))
    host = evaluate_host(pinned)
    evaluations = [evaluate(option, pinned, every_rule=True) for option in options(pinned)]
    possible = host.accepted and any(result.accepted for result in evaluations)
    chosen = next((candidate.id for candidate in choose(profile, hosts).candidates if candidate.accepted), None)
    return WhyNot(
        requested=f"vllm=={version}",
        hosts=hosts,
        chosen=chosen,
        evaluations=tuple(
            CandidateEvaluation(
                candidate=result.name,
                accepted=result.accepted,
                reasons=tuple(result.reasons("accept", "warn", "reject")),
            )
            for result in (host, *evaluations)
        ),
        nearest=None if possible else nearest(pinned, kept=("vllm",)),
    )


def _version(requested: str) -> str:
    match = _GRAMMAR.fullmatch(requested)
    if not match:
        raise UsageError(f"`--why-not {requested}` is invalid", hint="name one release: --why-not vllm==0.33.0")
    known = sorted((row.version for row in catalog().releases), key=release)
    if match[1] not in known:
        raise UsageError(
            f"the catalog has no vLLM {match[1]}; its newest is {known[-1]}, its oldest {known[0]}",
            hint=NEWER_RELEASES,
        )
    return match[1]


def _lines(answer: WhyNot) -> list[str]:
    sources: dict[str, int] = {}
    lines = [f"why not {answer.requested} on {', '.join(answer.hosts)}?"]
    for evaluation in answer.evaluations:
        against = [reason for reason in evaluation.reasons if reason.verdict == "reject"]
        fits = "fits" if evaluation.accepted else f"does not fit: {count(len(against), 'refusal')}"
        if evaluation.candidate == HOST:
            fits = "can run a combination of versions" if evaluation.accepted else "can run no combination of versions"
        ordered = [*against, *(reason for reason in evaluation.reasons if reason.verdict != "reject")]
        lines += ["", f"    {evaluation.candidate} {fits}", *verdicts(ordered, sources)]
    if len(answer.evaluations) == 1:
        lines += ["", f"    the catalog has no build of {answer.requested} for this host"]
    possible = (
        [item.candidate for item in answer.evaluations[1:] if item.accepted] if answer.evaluations[0].accepted else []
    )
    lines.append("")
    if answer.chosen in possible:
        lines.append(f"  The plan chooses it: {answer.chosen}.")
    elif possible:
        lines.append(f"  It is possible: {possible[0]}. The plan chooses {answer.chosen}, which ranks higher.")
    else:
        lines.append(f"  To make it possible: {answer.nearest.text if answer.nearest else 'no one or two changes do'}.")
    return [*lines, *source_lines(sources)]
