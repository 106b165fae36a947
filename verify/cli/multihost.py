"""Command `verify multihost`: this host's part in trials of several hosts, led by a coordinator over JSON lines.

It first describes itself, then answers the requests `reach` (connect to other hosts), `reserve_port` and `all_reduce` (run
its processes of one), and ends on `quit` or at the end of its input.
"""

import json
import random
import secrets
import sys
from collections.abc import Mapping
from functools import partial
from pkgutil import resolve_name
from typing import Any

from verify.cli.arguments import Parser
from verify.host.network import Listener, ephemeral_ports, free_port, interfaces, own_name_leads_to, reach
from verify.host.views import torch_view
from verify.runner.child_processes import Task, run_all, run_one
from verify.tables import table

PORT_SAMPLE = 20
"""Number of ephemeral ports to try, as some may be in use."""


def main(arguments: list[str]) -> int:
    """Answer requests until `quit` or the end of the input; return 0."""
    Parser(
        prog="verify multihost",
        description="This host's part in trials of several hosts: requests on stdin, answers on stdout, as JSON lines.",
        epilog="exit codes: 0 at the end of the input, 64 usage",
        hint="./firstlight verify -i INVENTORY coordinates the hosts of an inventory",
    ).parse_args(arguments)
    worker = MultihostWorker()
    _write(worker.greeting)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        _write(worker.answer(request))
    return 0


class MultihostWorker:
    """State of this host between requests."""

    def __init__(self) -> None:
        rules = table("network")["meeting"]
        first, last = rules["ports"]
        self._rules, self._ports = rules, range(first, last + 1)
        self._token = secrets.token_hex(16)
        self._listener: Listener | None = None
        found = interfaces()
        # This imports torch, but touches no GPU in this process.
        gpus = run_one(torch_view.gpu_count, deadline_s=60.0).value if torch_view.built_for_gpus() else 0
        self.greeting: dict[str, Any] = {
            "interfaces": found,
            "own_name": own_name_leads_to(),
            "ports": rules["ports"],
            "ephemeral": ephemeral_ports(),
            "gpus": gpus or 0,
            "token": self._token,
        }
        addresses = [interface["address"] for interface in found]
        # Only after all forks above: a forked process must not inherit a thread.
        try:
            lowest, highest = self.greeting["ephemeral"]
            # A firewall may allow the fixed ports and block these.
            some = random.sample(range(lowest, highest + 1), min(PORT_SAMPLE, highest + 1 - lowest))
            kinds = (self._ports, some)
            self._listener = Listener(addresses, kinds, self._token) if addresses else None
        except OSError as error:
            self.greeting["problem"] = f"it cannot listen on any port from {first} to {last}: {error.strerror or error}"
        self.greeting["listens"] = self._listener.ports if self._listener else []

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one request; `problem` is set if that fails."""
        if request["do"] == "reach":
            return {"how": reach(request["targets"], self._token, timeout_s=self._rules["connect_s"])}
        if self._listener:  # all hosts have been reached, and processes will fork
            self._listener.close()
            self._listener = None
        if request["do"] == "reserve_port":
            try:
                return {"port": free_port([request["address"]], self._ports)}
            except OSError as error:
                return {"problem": f"no port for the trial is free: {error.strerror or error}"}
        return self._all_reduce(request)

    def _all_reduce(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run this host's processes of a trial, one for each GPU by NCCL; return the worst of their answers."""
        asked = {name: request[name] for name in ("world", "interface", "address", "port")}

        def trial(number: int) -> dict[str, Any]:
            run_trial = resolve_name("verify.host.allreduce_trial:run_trial")  # it imports torch
            device = f"cuda:{number}" if request["backend"] == "nccl" else "cpu"
            found: dict[str, Any] = run_trial(request["rank"] + number, **asked, device=device)
            return found

        count = request["processes"]
        tasks = [Task(number, partial(trial, number), self._rules["deadline_s"]) for number in range(count)]
        endings = [ending for _, ending in sorted(run_all(tasks, limit=count), key=lambda one: one[0])]
        if failed := next((ending for ending in endings if ending.problem), None):
            return {"problem": failed.problem, "output": failed.output}
        answers = [ending.value for ending in endings]
        if skipped := next((answer for answer in answers if "skip" in answer), None):
            return dict(skipped)
        return {
            "wrong": sum(answer["wrong"] for answer in answers),
            "latency": max(answer["latency"] for answer in answers),
            "bandwidth": min(answer["bandwidth"] for answer in answers),
        }


def _write(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
