"""Where gateways take part in the work of the core: in `plan`, `status`, `verify`, `chat`, and around starts of services."""

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from provision.core.models.inventory import Host
from provision.core.models.records import CheckRecord
from provision.features.gateway import shared_address, step
from provision.features.gateway.backends import PACKAGES, reached_at
from provision.features.gateway.draining import (
    NO_ROLLOUT,
    Answers,
    ask,
    bring_back,
    by_operator,
    folder_of,
    left_shares,
    python_of,
)
from provision.features.gateway.haproxy import CLIENTS
from provision.features.gateway.restarts import Restarts, moves
from provision.features.gateway.traffic import HostTraffic
from provision.fleet.inventory.addresses import gateway_endpoint, listened_on, own_address
from provision.pipeline.host_status import StatusPart
from provision.report.layout import count
from provision.run.context import RunContext
from provision.run.results import PlannedHosts, ProbedHosts, VerifiedHosts
from provision.run.served import ask_served, served_of

ELSEWHERE = (
    "it serves another model, or at another place: gateways that know the one of before need ./firstlight gateway"
)


def planned(hosts: Sequence[Host], _plan: PlannedHosts) -> dict[str, list[str]]:
    """Return the gateways, by what `plan` says of them."""
    text = f"gateway, HAProxy in front of {count(sum(host.is_serving for host in hosts), 'host')}"
    return {text: [host.name for host in hosts if host.is_gateway]}


def needed_packages(hosts: Sequence[Host]) -> dict[str, list[str]]:
    """Return the OS packages of gateways, by host."""
    return {
        host.name: [*PACKAGES, *(shared_address.PACKAGES if host.settings.gateway_address else ())]
        for host in hosts
        if host.is_gateway
    }


def status(context: RunContext, probed: ProbedHosts) -> dict[str, StatusPart]:
    """Return what is known of gateways, and at which of them hosts are drained.

    A gateway that does not answer is no failure here: the command shows what is there.
    """
    answers = ask(context, [host for host in context.hosts() if host.is_gateway])
    return {host.name: _part(host, answers) for host in context.hosts() if host.name in probed.facts}


def _part(host: Host, answers: Answers) -> StatusPart:
    drained_at = [name for name, traffic in answers.traffics.items() if host.name in traffic.drained()]
    gateway, words = _gateway(host, answers) if host.is_gateway else (None, [])
    words += [f"drained at the gateway {', '.join(drained_at)}"] if drained_at else []
    for name, traffic in answers.traffics.items():
        if (one := traffic.of(host.name)) and one.canary is not None:
            words.append(f"canary with {one.canary:g} % of requests at the gateway {name}")
    return StatusPart({"drained_at": drained_at, "gateway": gateway}, "; ".join(words))


def _gateway(host: Host, answers: Answers) -> tuple[dict[str, Any], list[str]]:
    """Return a gateway as a document, and in words; the figures of its hosts are those of `./firstlight gateway status`."""
    traffic, error = answers.traffics.get(host.name), answers.errors.get(host.name)
    endpoint = gateway_endpoint(host, reached_at(host))
    document: dict[str, Any] = {"endpoint": endpoint, "hosts": None, "error": None if error is None else str(error)}
    if traffic is None:
        return document, [f"gateway at {endpoint}" + (f", no answer: {' '.join(str(error).split())}" if error else "")]
    known = ("host", "model", "state", "share", "drained_by")
    document["hosts"] = [{name: getattr(one, name) for name in known} for one in traffic.hosts]
    models = groupby(traffic.hosts, key=lambda one: one.model)
    served = ", ".join(f"{model} ({_in_traffic([*hosts])})" for model, hosts in models)
    return document, [f"gateway at {endpoint} for {served}" if served else f"gateway at {endpoint}, no host behind it"]


def _in_traffic(hosts: Sequence[HostTraffic]) -> str:
    """Return the hosts of a model with their states, and how many of them get requests."""
    named = ", ".join(f"{one.host} {one.state}" for one in hosts)
    serving = sum(one.why_out is None for one in hosts)
    return named if serving == len(hosts) else f"{serving} of {count(len(hosts), 'host')} in traffic: {named}"


def served_again(context: RunContext, hosts: Collection[str]) -> None:
    """Let hosts take requests again that a command took back to a release which is proven."""
    gateways = context.options.find_gateways()
    answers = ask(context, gateways)
    reached = [host for host in gateways if host.name in answers.traffics]
    traffics = answers.traffics.values()
    left = left_shares(context, traffics)
    drained = sorted({*hosts} & {name for traffic in traffics for name in traffic.drained()})
    bring_back(context, reached, left, drained=drained, ended=hosts)
    for name in hosts:
        if text := by_operator(traffics, name) or (NO_ROLLOUT if name in left else None):
            context.add_note(name, text)
    if context.options.limited and gateways:  # without a limit they are set up next
        for name, now in ask_served(context, context.result).items():
            before = context.result.facts[name].installed
            if now and before and served_of(json.dumps(before.state or {}), "") != replace(now, key=None):
                context.add_note(name, ELSEWHERE)


def chat_endpoint(host: Host) -> tuple[dict[str, Any], str] | None:
    """Return what the program of `chat` has to know of a gateway, and the Python that runs it; None of another host."""
    if not host.is_gateway:
        return None
    url = gateway_endpoint(host, own_address(listened_on(host.settings.gateway_bind)))
    key_file = f"{folder_of(host)}/current/{CLIENTS}"
    return {"url": url, "model": None, "key_file": key_file, "key_pattern": r"^(\S+) "}, python_of(host)


def checked_around(context: RunContext, probed: ProbedHosts) -> list[CheckRecord]:
    """Return what gateways answer their clients, compared with what their hosts answer."""
    return step.check(context, probed)


def starts(context: RunContext, verified: VerifiedHosts, hosts: Sequence[Host], *, still: Collection[str]) -> Restarts:
    """Return the restarts of hosts that get requests from gateways: one after another, without requests."""
    moving = {host.name for host in hosts if moves(verified.desired[host.name], verified.facts[host.name])}
    return Restarts(context, still=still, moving=moving)
