"""The plan as text: the Stack of each class, the refusals, the changes, with `--explain` the verdicts; why a release was not chosen; the plan as JSON."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from types import MappingProxyType
from typing import Any, Literal

from provision.catalog import catalog
from provision.catalog.versions import release, within
from provision.core.errors import UsageError
from provision.core.formatting import GIB
from provision.core.grouping import gather
from provision.core.models.base import Record
from provision.core.models.records import PlannedChange
from provision.core.models.settings import CHOSEN_PORTS, Settings, typed
from provision.core.models.stack import ModelPlan, Nearest, Plan, Reason, Resolution, Stack
from provision.phases.plan.build_option import options
from provision.phases.plan.choose import choose
from provision.phases.plan.evaluation import HOST, evaluate, evaluate_host
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.policy import INFERRED, LATEST, NEWER_RELEASES, NEWEST
from provision.phases.plan.suggestion import nearest
from provision.report.layout import count
from provision.report.planned_changes import change_lines
from provision.report.wording import SUPERVISORS

_SIGNS = {"accept": "ok  ", "reject": "no  ", "warn": "warn"}


def source_lines(sources: Mapping[str, int]) -> list[str]:
    """Return the sources of verdicts as lines, by their numbers."""
    return ["", "  sources", *(f"    ({number}) {source}" for source, number in sources.items())] if sources else []


def render_trace(resolution: Resolution) -> list[str]:
    """Return every verdict of the plan as lines, with its rule, facts and source."""
    sources: dict[str, int] = {}
    lines = ["", "  trace: verdicts on the host and on combinations of versions"]
    of_host = [reason for reason in resolution.reasons if reason.candidate == HOST]
    if of_host:
        lines += ["", "    Host:", *verdicts(of_host, sources)]
    lines += _refused_candidates(resolution, sources)
    if resolution.stack is not None:
        chosen = next(candidate.id for candidate in resolution.candidates if candidate.accepted)
        of_chosen = [
            reason for reason in resolution.reasons if reason.candidate == chosen and reason.verdict != "reject"
        ]
        lines += ["", f"    Chosen: {chosen}", *verdicts(of_chosen, sources)]
    later = [candidate.id for candidate in resolution.candidates if candidate.accepted][1:]
    if later:
        lines += ["", f"    Next candidates, if its packages cannot be resolved: {', '.join(later)}"]
    return [*lines, *source_lines(sources)]


def verdicts(reasons: Iterable[Reason], sources: dict[str, int]) -> Iterator[str]:
    """Yield two lines for each verdict: the text; rule, facts and source. `sources` gets a number for each new source."""
    for reason in reasons:
        yield f"      {_SIGNS[reason.verdict]} {reason.text}"
        facts = ", ".join(f"{name} = {_value(value)}" for name, value in reason.facts.items())
        number = sources.setdefault(reason.source, len(sources) + 1) if reason.source else None
        named = f" (source {number})" if number else ""
        yield f"          {reason.rule}{f': {facts}' if facts else ''}{named}"


def _refused_candidates(resolution: Resolution, sources: dict[str, int]) -> list[str]:
    """Return the refused candidates in their order; neighbours with equal reasons share a block."""
    order = {candidate.id: candidate.rank for candidate in resolution.candidates}
    reasons = sorted(resolution.reasons, key=lambda reason: order.get(reason.candidate, 0))
    by_candidate = gather(
        (reason.candidate, reason) for reason in reasons if reason.verdict == "reject" and reason.candidate != HOST
    )
    lines: list[str] = []
    for _, group in groupby(by_candidate.items(), key=lambda item: [(reason.rule, reason.text) for reason in item[1]]):
        names, (reasons, *_) = zip(*group, strict=True)
        named = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]} ({len(names)} candidates)"
        lines += ["", f"    {named} refused:", *verdicts(reasons, sources)]
    return lines


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)


def render(
    plan: Plan,
    settings: Mapping[str, Settings],
    *,
    changes: Mapping[str, Sequence[PlannedChange]] = MappingProxyType({}),
    explain: bool = False,
) -> str:
    """Return the plan as text.

    Args:
        settings: Settings by host; the defaults apply to other hosts.
        changes: What a run would change, by host.
        explain: Whether to add the trace.
    """
    blocks = []
    for resolution in plan.classes:
        lines = _block(resolution, settings.get(resolution.hosts[0], Settings()))
        if found := {name: changes[name] for name in resolution.hosts if name in changes}:
            lines += ["", *change_lines(found)]
        if explain:
            lines += render_trace(resolution)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _block(resolution: Resolution, settings: Settings) -> list[str]:
    hosts = resolution.hosts
    more = f" and {len(hosts) - 6} more" if len(hosts) > 6 else ""
    lines = [hosts[0] if len(hosts) == 1 else f"{len(hosts)} equal hosts: {', '.join(hosts[:6])}{more}"]
    stack = resolution.stack
    if stack is None:
        refused = [("refused", "no combination of versions fits"), *_by_rule(resolution)]
        lines += _pairs([*refused, *([("possible", resolution.nearest.text)] if resolution.nearest else [])])
    else:
        warnings = [("warning", reason.text) for reason in resolution.reasons if reason.verdict == "warn"]
        assumed = [("assumed", text) for text in resolution.assumptions]
        accepted = [reason for reason in resolution.reasons if reason.verdict == "accept"]
        span = [("hosts", reason.text) for reason in accepted if reason.rule == "span"]
        span += [("ports", ports_between(settings))] if span else []
        used = next((reason.text for reason in accepted if reason.rule == "gpus-used"), None)
        lines += _pairs([*_stack(stack, used), *span, *_why(resolution), *warnings, *assumed])
    return lines


def _stack(stack: Stack, used: str | None) -> Iterator[tuple[str, str]]:
    """Yield the parts of a Stack; `used` says which GPUs the model uses if not all."""
    if stack.vllm:
        build = stack.vllm
        who = f"community build {build.distribution}" if build.provider == "community" else "the vLLM project's build"
        if build.wheel:
            who = f"{build.wheel.name}: {INFERRED}"
        yield "vLLM", f"{build.version} ({build.variant}), {who}"
    else:
        yield "vLLM", "none, as `--vllm none` requests"
    note = " from the package index: a CUDA build that computes on the CPU" if stack.torch_stands_in else ""
    yield "torch", f"{stack.torch.version} ({stack.torch.variant}){note}"
    where = f"the host's {stack.interpreter.path}" if stack.interpreter.origin == "host" else "installed by Firstlight"
    yield "Python", f"{stack.interpreter.version}, {where}"
    if stack.driver:
        yield "driver", _driver(stack)
    if stack.cuda_compat:
        extends = "extends the driver, only for the service and its checks"
        yield "cuda-compat", f"{stack.cuda_compat.package} {extends}"
    if stack.gpus:
        yield "GPUs", used or _gpus(stack)
    if stack.vllm:
        generation = f", FlashAttention {stack.attention.generation}" if stack.attention.generation else ""
        yield "attention", f"{stack.attention.backend}{generation}"
        if stack.attention.environment:
            given = " ".join(f"{name}={value}" for name, value in stack.attention.environment.items())
            yield "variables", given
    yield from _packages(stack)
    if stack.model:
        yield "model", _model(stack.model)
    if stack.serving:
        yield from (("serving", choice.text) for choice in stack.serving.choices)
    yield "runs under", SUPERVISORS[stack.supervisor]


def _gpus(stack: Stack) -> str:
    if stack.gpu_slice is not None:
        return f"slice {stack.gpus[0]}:{stack.gpu_slice}"
    indexes = ", ".join(map(str, stack.gpus))
    return f"{len(stack.gpus)} ({'index' if len(stack.gpus) == 1 else 'indexes'} {indexes})"


def _packages(stack: Stack) -> Iterator[tuple[str, str]]:
    """Yield the packages that an environment has besides those that vLLM names."""
    if package := stack.flash_attn.package:
        whose = f", from {package.community}" if package.community else ""
        use = ", for your own programs, beside vLLM's own kernels" if stack.flash_attn.provider == "bundled" else ""
        yield "flash-attn", f"{package.file}{whose}{use}"
    if stack.packages:
        yield "packages", ", ".join(stack.packages)
    if stack.tracing:
        yield "traces", f"{', '.join(stack.tracing)}, which this release does not bring"


def _model(plan: ModelPlan) -> str:
    parts = [f"{plan.name}, {plan.weights_bytes / GIB:.1f} GiB of weights"]
    if plan.max_model_len:
        limit = f" of {plan.own_max_model_len}" if plan.max_model_len < plan.own_max_model_len else ""
        parts.append(f"context {plan.max_model_len}{limit} tokens, KV cache {plan.cache_tokens} tokens")
    return "; ".join([*parts, *([" ".join(plan.flags)] if plan.flags else [])])


def _driver(stack: Stack) -> str:
    plan = stack.driver
    assert plan is not None
    module = f", {plan.module} kernel module" if plan.module else ""
    manager = f", fabric manager {stack.fabric_manager}" if stack.fabric_manager else ""
    version = plan.version or "the host's (version unknown)"
    return f"{plan.action} {version}{module}{manager}"


def _why(resolution: Resolution) -> list[tuple[str, str]]:
    """Return a line for each rule that refused a better candidate, on what was tested, on the disk, and for a useful driver upgrade."""
    refused = [("refused", text) for _, text in _by_rule(resolution)]
    accepted = [reason for reason in resolution.reasons if reason.verdict == "accept"]
    labels = {"proven": "tested", "disk": "disk", "rights": "rights", "driver-policy": "upgrade"}
    return refused + [(labels[rule], reason.text) for rule in labels for reason in accepted if reason.rule == rule]


def _by_rule(resolution: Resolution) -> list[tuple[str, str]]:
    """Return the first refusal of each rule with the number of its others."""
    refusals = gather((reason.rule, reason) for reason in resolution.reasons if reason.verdict == "reject")
    found = []
    for rule, (first, *others) in refusals.items():
        more = f" (and {len(others)} more)" if others else ""
        found.append((rule, first.text if first.candidate == HOST else f"{first.candidate}{more}: {first.text}"))
    return found


def _pairs(pairs: list[tuple[str, str]]) -> list[str]:
    width = max((len(what) for what, _ in pairs), default=0)
    return [f"  {what:<{max(width, 11)}}  {how}" for what, how in pairs]


def ports_between(settings: Settings) -> str:
    """Return as text which ports the hosts of a span open for one another, and who does that."""
    meeting, first, last = settings.span_ports, *CHOSEN_PORTS
    ray = "{} to {} and ".format(*settings.ray_ports) if settings.executor == "ray" else ""
    how = "by rules of their firewall" if settings.firewall == "set" else "the run writes the rules into a file"
    return f"TCP {meeting[0]} and {meeting[1]} of the first host, {ray}{first} to {last} of each, from these hosts alone: {how}"


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
    excluded_by: str | None
    """The setting that excludes the release, as it is typed; None if none does."""
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
    match = re.fullmatch(r"vllm==(\S+)", requested)
    if not match:
        raise UsageError(f"`--why-not {requested}` is invalid", hint="name one release: --why-not vllm==0.33.0")
    known = sorted((row.version for row in catalog().releases), key=release)
    if match[1] not in known:
        raise UsageError(
            f"the catalog has no vLLM {match[1]}; its newest is {known[-1]}, its oldest {known[0]}", hint=NEWER_RELEASES
        )
    return [_answer(match[1], profile, tuple(hosts)) for profile, hosts in classes.items()]


def render_answers(answers: list[WhyNot]) -> str:
    """Return the answers as text."""
    return "\n\n".join("\n".join(_answer_lines(answer)) for answer in answers) + "\n"


def _answer(version: str, profile: HostProfile, hosts: tuple[str, ...]) -> WhyNot:
    pinned = replace(profile, policy=replace(profile.policy, vllm=f"=={version}"))
    host = evaluate_host(pinned)
    evaluations = [evaluate(option, pinned, every_rule=True) for option in options(pinned)]
    possible = host.accepted and any(result.accepted for result in evaluations)
    chosen = next((candidate.id for candidate in choose(profile, hosts).candidates if candidate.accepted), None)
    wanted = profile.policy.vllm
    is_admitted = wanted in {LATEST, NEWEST} or (wanted != "none" and within(version, wanted))
    return WhyNot(
        requested=f"vllm=={version}",
        hosts=hosts,
        chosen=chosen,
        excluded_by=None if is_admitted else typed("vllm", wanted),
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


def _answer_lines(answer: WhyNot) -> list[str]:
    sources: dict[str, int] = {}
    lines = [f"why not {answer.requested} on {', '.join(answer.hosts)}?"]
    host, *candidates = answer.evaluations
    for evaluation in answer.evaluations:
        against = [reason for reason in evaluation.reasons if reason.verdict == "reject"]
        fits = "fits" if evaluation.accepted else f"does not fit: {count(len(against), 'refusal')}"
        if evaluation.candidate == HOST:
            fits = "can run a combination of versions" if evaluation.accepted else "can run no combination of versions"
        ordered = [*against, *(reason for reason in evaluation.reasons if reason.verdict != "reject")]
        lines += ["", f"    {evaluation.candidate} {fits}", *verdicts(ordered, sources)]
    if not candidates:
        lines += ["", f"    the catalog has no build of {answer.requested} for this host"]
    possible = [item.candidate for item in candidates if item.accepted and host.accepted]
    lines.append("")
    if answer.chosen in possible:
        lines.append(f"  The plan chooses it: {answer.chosen}.")
    elif possible:
        lines.append(f"  It is possible: {possible[0]}. {_preferred(answer)}")
    else:
        lines.append(f"  To make it possible: {answer.nearest.text if answer.nearest else 'no one or two changes do'}.")
    return [*lines, *source_lines(sources)]


def _preferred(answer: WhyNot) -> str:
    """Return what the plan chooses instead of a possible release, and why."""
    if answer.excluded_by:
        return (
            f"`{answer.excluded_by}` excludes it; the plan chooses {answer.chosen or 'nothing, as nothing else fits'}."
        )
    if answer.chosen is None:
        return "The plan chooses it only if it is named."
    return f"The plan chooses {answer.chosen}, which ranks higher."


def to_json(plan: Plan, changes: Mapping[str, Sequence[PlannedChange]]) -> dict[str, Any]:
    """Return the document of a plan: one host's resolution at the top level, several as `classes` with the same keys.

    Args:
        changes: What a run would change, by host.
    """
    found = {name: [one.model_dump(mode="json") for one in these] for name, these in changes.items()}
    answers = [resolution.model_dump(mode="json") for resolution in plan.classes]
    document = {"schema_version": plan.schema_version, "changes": found}
    if sum(len(resolution.hosts) for resolution in plan.classes) == 1:
        return document | answers[0]
    return document | {"classes": answers}
