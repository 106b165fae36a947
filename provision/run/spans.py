"""Hosts that serve one model together: they change together, or not at all."""

from collections.abc import Collection, Mapping
from typing import Any

from provision.core.errors import FirstlightError, InventoryError, ServeError
from provision.core.models.facts import HostFacts
from provision.core.models.records import PhaseName, ServeRecord
from provision.core.models.stack import Stack
from provision.report.layout import quoted
from provision.run.context import RunContext


def refuse_parts(context: RunContext, phase: PhaseName, *, switched: bool = False) -> None:
    """Fail the hosts of each span of which a host is missing in this run, or has failed.

    `switched` says whether some of them serve another release by now.
    """
    there = {host.name for host in context.hosts()}
    of_run = {host.name for host in context.inventory.hosts}
    for host in context.hosts():
        members = host.span.members if host.span else ()
        missing = [name for name in members if name not in there]
        if not missing:
            continue
        text = f"it serves a model together with {quoted(missing)}"
        error: FirstlightError
        if set(missing) <= of_run:
            what = "this one waits for it" if switched else "nothing of this one was switched"
            error = ServeError(f"{text}, which failed", hint=f"the reason is in the result of that host; {what}")
        else:
            hint = f"name all of them: --limit {','.join(members)}"
            error = InventoryError(f"{text}, and --limit leaves that out", hint=hint)
        context.fail(host.name, phase, error)


def refuse_unequal(context: RunContext, phase: PhaseName, parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Fail the hosts of each span whose hosts differ in `parts`: what each would serve with, each part by its name in a sentence."""
    for host in context.hosts():
        if host.span is None or host.name == host.head or not {host.name, host.head} <= parts.keys():
            continue
        own, wanted = parts[host.name], parts[host.head]
        different = next((name for name in own if own[name] != wanted[name]), None)
        if different is None:
            continue
        text = f"`{host.head}` and `{host.name}` are to serve one model together, and differ in {different}: {wanted[different]} and {own[different]}"
        for name in host.span.members:
            if not context.has_failed(name):
                context.fail(
                    name, phase, InventoryError(text, hint="hosts of one model have to be equal: leave one of them out")
                )


def parts_of(stack: Stack, facts: HostFacts) -> dict[str, Any]:
    """Return what hosts of a span have to have in common of their plan."""
    vendors = (facts.nvidia, facts.amd)
    cards = [card for vendor in vendors if vendor for card in vendor.gpus if card.index in stack.gpus]
    return {
        "the build": stack.variant,
        "vLLM": stack.vllm.version if stack.vllm else None,
        "torch": stack.torch.version,
        "the attention back end": stack.attention.backend if stack.attention else None,
        "the GPUs": [card.name for card in cards],
    }


def whole(context: RunContext, names: Collection[str]) -> frozenset[str]:
    """Return hosts without those of spans of which another host is not among them."""
    return frozenset(
        name for name in names if (span := context.host(name).span) is None or set(span.members) <= {*names}
    )


def with_one_verdict(
    context: RunContext, asked: Collection[str], records: Mapping[str, ServeRecord]
) -> dict[str, ServeRecord]:
    """Return records of services in which a host of a span is ready only if all of it are that were asked."""
    found = dict(records)
    for name, record in records.items():
        span = context.host(name).span
        others = [other for other in span.members if other in asked and other != name] if span else []
        broken = next((other for other in others if other not in records or not records[other].ready), None)
        if record.ready and broken is not None:
            why = records[broken].text if broken in records else "it did not answer"
            text = f"`{broken}` serves the same model, and is not ready: {why}"
            found[name] = record.model_copy(update={"ready": False, "text": text})
    return found
