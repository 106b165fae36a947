"""A second `provision` without changes on real hosts, compared with ansible-playbook that proves the same state.

    .venv/bin/python -m benchmarks.second_run [--hosts 3 50] [--rounds 10]

Boots test hosts and provisions them once: three bare ones, which then serve; and fifty that were booted from the files of one that has
the environment and no service. Then these take turns, each a whole process:

    firstlight         ./firstlight provision -i INVENTORY
    ansible-playbook   playbooks/site.yml with the run's own install/hosts.yml; pipelining, a fork a host

The first turns are not counted: they fill caches and open connections. A turn that changes something ends the benchmark.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.fleet import hosts_to_boot
from benchmarks.harness import ROOT, figures, header, parser, publish, say, timed
from tests.fleet.hosts import Fleet, FleetHost, write_inventory

SERVING = 3
"""Up to so many hosts are provisioned one by one, and serve: each takes 2 GiB of memory. More are copies of one that does not."""
AIMS_S = {3: 1.0, 50: 3.5}
MOST_FORKS = 25
"""Of ansible-playbook: each takes 80 MB of the machine that also holds the hosts."""
PAUSE_S = 5.0
"""Before each turn, so that what the turn before left on the machine has ended."""


@dataclass
class Tool:
    """One of the two: its command, and the function that finds a problem in its output."""

    command: list[str]
    environment: dict[str, str]
    problem_in: Callable[[str], str | None]
    samples: list[float] = field(default_factory=list)

    def turn(self, *, counts: bool) -> None:
        """Run it once. Ends the program if it fails or changes something."""
        time.sleep(PAUSE_S)
        done = timed(self.command, environment=self.environment, limit_s=600)
        if problem := f"exit code {done.code}" if done.code else self.problem_in(done.out):
            sys.exit(f"error: {self.command[0]}: {problem}\n{done.tail()}")
        if counts:
            self.samples.append(done.seconds)
            say(f"{Path(self.command[0]).name}: {done.seconds:.3f} s")


def firstlight(inventory: Path, logs: Path) -> Tool:
    """Return the product."""

    def problem(_: str) -> str | None:
        hosts = json.loads((logs / "latest" / "summary.json").read_bytes())["hosts"]
        states = {host["name"]: host["state"] for host in hosts}
        return None if set(states.values()) == {"unchanged"} else str(states)

    return Tool([str(ROOT / "firstlight"), "provision", "-i", str(inventory)], {"FIRSTLIGHT_LOGS": str(logs)}, problem)


def ansible(hosts_file: Path, scratch: Path, count: int) -> Tool:
    """Return ansible-playbook with a good configuration."""
    (scratch / "empty.cfg").touch()
    environment = {
        "ANSIBLE_CONFIG": str(scratch / "empty.cfg"),
        "ANSIBLE_HOME": str(scratch / "ansible"),
        "ANSIBLE_PIPELINING": "True",
        "ANSIBLE_FORKS": str(min(count, MOST_FORKS)),
        "ANSIBLE_GATHERING": "explicit",
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    program = Path(sys.executable).with_name("ansible-playbook")
    command = [str(program), "-i", str(hosts_file), "playbooks/site.yml"]
    return Tool(command, environment, lambda output: ansible_problem(output, count))


def ansible_problem(output: str, hosts: int) -> str | None:
    """Return the problem in an output of ansible-playbook; None if that many hosts are unchanged and in the desired state."""
    recap = re.findall(r"^(\S+)\s+: ok=\d+\s+(changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+))", output, re.MULTILINE)
    if len(recap) != hosts:
        return f"the recap names {len(recap)} of {hosts} hosts"
    return next((f"{name}: {text}" for name, text, *counts in recap if set(counts) != {"0"}), None)


def provision(inventory: Path, logs: Path) -> tuple[float, dict[str, Any]]:
    """Provision bare hosts; return the seconds, and the variables of the hosts. Ends the program on failure."""
    environment = {"FIRSTLIGHT_LOGS": str(logs), "TERM": "dumb"}
    done = timed([ROOT / "firstlight", "provision", "-i", inventory], environment=environment)
    if done.code:
        sys.exit(f"error: the first run failed\n{done.tail(6000)}")
    planned = yaml.safe_load((logs / "latest" / "install" / "hosts.yml").read_text(encoding="utf-8"))
    return done.seconds, planned["all"]["hosts"]


def installed(fleet: Fleet, count: int, scratch: Path) -> tuple[float, list[FleetHost], Path, dict[str, Any]]:
    """Boot and provision so many hosts; return the seconds of the first run, the hosts, their inventory and their variables."""
    say(f"{count} hosts: provisioning for the first time: some minutes")
    if count <= SERVING:
        hosts = fleet.boot(count)
        inventory = write_inventory(scratch / "inventory", hosts)
        seconds, planned = provision(inventory, scratch / "logs")
        return seconds, hosts, inventory, planned
    [pattern] = fleet.boot(1)
    alone = write_inventory(scratch / "pattern", [pattern], firstlight_serve=False)
    seconds, planned = provision(alone, scratch / "logs")
    hosts = fleet.boot_copies(pattern, count)
    text = json.dumps(planned[pattern.name])
    planned = {host.name: json.loads(text.replace(pattern.address, host.address)) for host in hosts}
    return seconds, hosts, write_inventory(scratch / "inventory", hosts, firstlight_serve=False), planned


def measured(fleet: Fleet, count: int, rounds: int, scratch: Path) -> dict[str, Any]:
    """Return the figures of so many hosts."""
    first_s, hosts, inventory, planned = installed(fleet, count, scratch)
    hosts_file = scratch / "planned.yml"
    hosts_file.write_text(json.dumps({"all": {"hosts": planned}}), encoding="utf-8")
    tools = {
        "firstlight": firstlight(inventory, scratch / "logs"),
        "ansible-playbook": ansible(hosts_file, scratch, count),
    }
    for number in range(rounds + 1):
        for tool in tools.values():
            tool.turn(counts=number > 0)
    for host in hosts:
        host.remove()
    shown = {name: figures(tool.samples) for name, tool in tools.items()}
    return {"hosts": count, "rounds": rounds, "first_run_s": round(first_s, 1), "tools": shown}


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--hosts", type=int, nargs="+", default=list(AIMS_S))
    options.add_argument("--rounds", type=int, default=10)
    given = options.parse_args()
    result = header("second run", ("pydantic", "fabric", "ansible-core")) | {"fleets": [], "aim": {}}
    with hosts_to_boot() as fleet:
        for count in given.hosts:
            with tempfile.TemporaryDirectory(prefix="firstlight-") as name:
                found = measured(fleet, count, given.rounds, Path(name))
            result["fleets"].append(found)
            if (aim := AIMS_S.get(count)) is not None:
                met = found["tools"]["firstlight"]["median_s"] <= aim
                result["aim"][str(count)] = {"firstlight_median_s": aim, "met": met}
    met = all(aim["met"] for aim in result["aim"].values())
    result["aim"]["met"] = met
    publish(result, "second-run")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
