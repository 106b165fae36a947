"""Coordinator of multi-host trials: every host runs `verify between`, this machine sends the steps.

A host that does not answer is reported and left out; the others continue.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from provision.core.errors import FirstlightError
from provision.core.models.inventory import Host
from provision.features.multinode.interface_map import (
    AllReduceTrial,
    InterfaceMap,
    best,
    evaluate_trials,
    interface_maps,
    obstacles,
    tournament,
)
from provision.fleet.ssh.process import Channel
from provision.phases.verify.run_checks import tool_command
from provision.run.context import RunContext
from provision.run.desired_state import Desired
from provision.run.results import ProbedHosts
from verify.records import NETWORK, CheckResult, as_record

HELLO_S = 120.0
"""Time limit for importing torch, where many hosts share a slow disk."""
ANSWER_S = 100.0
"""Longer than the deadlines of the hosts themselves (verify/data/network.toml)."""

ABSENT = {"problem": "it did not answer"}

Answers = dict[str, dict[str, Any]]


def meet(openers: Mapping[str, Callable[[], Channel]], addresses: Mapping[str, str] = {}) -> dict[str, Any]:
    """Run the network and all-reduce trials between hosts, each started by its opener, at these addresses alone where all show them; return the record of the check."""
    started = time.monotonic()
    with ExitStack() as stack:
        participants = Participants(openers, stack)
        own = {
            host: [one for one in hello["interfaces"] if one["address"] == addresses.get(host)]
            for host, hello in participants.hellos.items()
        }
        if all(own.values()):  # where one does not show its address, as behind NAT, the rest need not be in its network
            for host, hello in participants.hellos.items():
                hello["interfaces"] = own[host]
        outcome = _run_all(participants)
        participants.leave()
    return as_record(NETWORK, None, None, outcome, time.monotonic() - started)


class Participants:
    """The hosts that answered, each with its open channel."""

    def __init__(self, openers: Mapping[str, Callable[[], Channel]], stack: ExitStack) -> None:
        self.silent: dict[str, str] = {}
        self._channels: dict[str, Channel] = {}
        for host, opener in openers.items():
            try:
                channel = opener()
            except FirstlightError as error:
                self.silent[host] = error.text
            else:
                stack.callback(channel.close)
                self._channels[host] = channel
        self.hellos = self._answers(list(self._channels), HELLO_S)
        for host in [host for host, hello in self.hellos.items() if "problem" in hello]:
            self.silent[host] = self.hellos.pop(host)["problem"]

    @property
    def hosts(self) -> list[str]:
        """Return the hosts that still answer, in inventory order."""
        return [host for host in self.hellos if host not in self.silent]

    def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Answers:
        """Send requests to hosts at once; hosts without an answer become silent."""
        asked = []
        for host, request in requests.items():
            try:
                self._channels[host].writeline(json.dumps(request))
                asked.append(host)
            except OSError as error:
                self.silent[host] = f"its connection broke: {error}"
        return self._answers(asked, ANSWER_S)

    def leave(self) -> None:
        """End all hosts at once; closing channels one by one would wait for each."""
        for host in self.hosts:
            with suppress(OSError):  # already ended
                self._channels[host].writeline(json.dumps({"do": "quit"}))

    def _answers(self, hosts: list[str], limit_s: float) -> Answers:
        deadline = time.monotonic() + limit_s
        found: Answers = {}
        for host in hosts:
            line = ""
            with suppress(OSError, EOFError):  # a connection that broke
                line = self._channels[host].readline(timeout_s=max(0.0, deadline - time.monotonic()))
            try:
                found[host] = dict(json.loads(line))
            except (ValueError, TypeError):
                message = self._channels[host].error_text().splitlines() or [f"no answer within {limit_s:g} s"]
                self.silent[host] = message[-1]
        return found


def _run_all(participants: Participants) -> CheckResult:
    reached = _reached(participants)
    trials: list[AllReduceTrial] = []
    present = {host: participants.hellos[host] for host in participants.hosts}
    for interface_map in interface_maps(present) if len(present) > 1 else ():
        if not obstacles(interface_map, reached):
            # Two rounds have each host in a pair; the chosen interfaces get the other rounds too.
            pairs = tournament([host for host in interface_map if host in participants.hosts], [])[:2]
            trials += _run_trials(participants, interface_map, "gloo", pairs)
    if chosen := best(trials):
        backend = "nccl" if all(participants.hellos[host]["gpus"] for host in chosen) else "gloo"
        tried = [trial.answers.keys() for trial in trials if (trial.interface_map, trial.backend) == (chosen, backend)]
        pairs = tournament([host for host in chosen if host in participants.hosts], tried)
        trials += _run_trials(participants, chosen, backend, pairs)
    return evaluate_trials(participants.hellos, reached, trials, participants.silent)


def _reached(participants: Participants) -> dict[str, dict[str, dict[str, str]]]:
    """Return the result of connecting from each host to every address of all others."""
    listeners = {
        host: [
            {"interface": one["name"], "address": one["address"], "ports": hello["listens"], "token": hello["token"]}
            for one in hello["interfaces"]
        ]
        for host, hello in participants.hellos.items()
    }
    targets = {
        caller: [(host, listener) for host, of_it in listeners.items() if host != caller for listener in of_it]
        for caller in participants.hosts
    }
    answers = participants.ask(
        {caller: {"do": "reach", "targets": [listener for _, listener in called]} for caller, called in targets.items()}
    )
    found: dict[str, dict[str, dict[str, str]]] = {}
    for caller, answer in answers.items():
        for (host, listener), how in zip(targets[caller], answer["how"], strict=True):
            found.setdefault(caller, {}).setdefault(host, {})[listener["interface"]] = how
    return found


def _run_trials(
    participants: Participants,
    interface_map: InterfaceMap,
    backend: str,
    turns: Sequence[Sequence[tuple[str, str]]],
) -> Iterator[AllReduceTrial]:
    """Run all-reduce trials between pairs of hosts, by NCCL with one process for each GPU. The pairs of a turn have no common host, and run at once."""
    for pairs in turns:
        seats = {
            first: {"do": "reserve_port", "address": _address(participants, first, interface_map[first])}
            for first, second in pairs
            if first in participants.hosts and second in participants.hosts
        }
        seated = participants.ask(seats)
        sitting = [pair for pair in pairs if "port" in seated.get(pair[0], {})]
        counts = {host: hello["gpus"] if backend == "nccl" else 1 for host, hello in participants.hellos.items()}
        asked = {
            host: {
                "do": "all_reduce",
                "rank": 0 if host == pair[0] else counts[pair[0]],
                "processes": counts[host],
                "world": sum(counts[one] for one in pair),
                "interface": interface_map[host],
                "address": seats[pair[0]]["address"],
                "port": seated[pair[0]]["port"],
                "backend": backend,
            }
            for pair in sitting
            for host in pair
        }
        answers = participants.ask(asked)
        for pair in pairs:
            answers_by_host = {host: answers.get(host, ABSENT) for host in pair}
            if pair not in sitting:
                answers_by_host = {pair[0]: seated.get(pair[0], ABSENT), pair[1]: {}}
            yield AllReduceTrial(interface_map, backend, answers_by_host)


def _address(participants: Participants, host: str, interface: str) -> str:
    return next(str(one["address"]) for one in participants.hellos[host]["interfaces"] if one["name"] == interface)


def try_together(
    context: RunContext, probed: ProbedHosts, hosts: Sequence[Host], desired: Mapping[str, Desired]
) -> dict[str, Any]:
    """Let hosts find and reach one another, and exchange numbers; return the record of the check. Nothing is configured on them."""

    def start(host: Host) -> Channel:
        paths, state = probed.install_paths[host.name], desired.get(host.name)
        environment = f"envs/{state.environment}" if state else "current"
        command = tool_command(paths.prefix.rstrip("/"), environment, ["multihost"])
        return context.session(host).open_channel(command, root=paths.root)

    for host in hosts:
        context.progress.note(host.name, "connects to the other hosts")
    # Hosts of one span meet where its processes do.
    is_one_span = len({host.head for host in hosts}) == 1
    addresses = {host.name: host.address_in_span for host in hosts} if is_one_span else {}
    return meet({host.name: partial(start, host) for host in hosts}, addresses)
