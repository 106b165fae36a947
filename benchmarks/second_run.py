"""A second run without changes on real hosts, compared with other tools that prove the same state.

    .venv/bin/python -m benchmarks.second_run [--hosts 3 50] [--rounds 10]

Boots test hosts and provisions them once: three bare ones, which then serve; and fifty that were booted from the files of one that has
the environment and no service. For each of the two fleets these take turns, one whole process each, round by round; on fifty hosts those that
take minutes leave after two rounds:

    firstlight         ./firstlight provision -i INVENTORY, by a login as root
    firstlight-sudo    the same by an account whose sudo asks for a password; three hosts only
    ansible-playbook   playbooks/site.yml with the run's own install/hosts.yml: the very same state; pipelining, a fork a host
    mitogen            the same with the strategy mitogen_linear
    pyinfra            benchmarks/pyinfra_state.py: the same things by pyinfra's own operations

A turn begins when what the turn before left on the machine has ended. Each first turn is not counted: it fills caches and opens
connections. A turn counts only if the tool reports that nothing changed. A peer that cannot be installed, or that finds something to
change, is in the result with the reason and without figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks import peers
from benchmarks.fleet import hosts_to_boot
from benchmarks.machine import ROOT, header, publish, say, wait_until_idle
from benchmarks.timing import Timed, figures, timed
from provision.phases.serve.onhost.builtin_model import FIRST_SEED, WEIGHTS_SHA256
from tests.fleet.hosts import SUDO_WITH_PASSWORD, Fleet, FleetHost, write_inventory

SERVING = 3
"""Up to so many hosts are provisioned one by one, and serve: each takes 2 GiB of memory. More are copies of one that does not."""
AIMS_S = {3: 0.6, 50: 2.5}
MOST_FORKS = 25
"""Of ansible-playbook: each takes 80 MB of the machine that also holds the hosts."""
TURNS_OF_MANY = 2
"""Of a tool that takes minutes: Ansible does for fifty hosts of one machine."""
LONG_S = 60.0


@dataclass
class Contestant:
    """One tool: its command, and the function that finds a problem in its output."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    problem_in: Callable[[Timed], str | None]
    samples: list[float] = field(default_factory=list)
    problem: str | None = None

    def turn(self, *, counts: bool) -> None:
        """Run it once; after a problem it has no more turns, and after TURNS_OF_MANY long ones neither."""
        if self.problem is not None or sum(seconds > LONG_S for seconds in self.samples) >= TURNS_OF_MANY:
            return
        wait_until_idle()
        try:
            done = timed(self.command, cwd=ROOT, environment=self.environment, limit_s=600)
        except subprocess.TimeoutExpired:
            self.problem = "took longer than 600 s"
            return
        self.problem = self.problem_in(done)
        if self.problem is not None:
            say(f"{self.name}: {self.problem}\n{done.tail()}")
        elif counts:
            self.samples.append(done.seconds)
            say(f"{self.name}: {done.seconds:.3f} s")


def firstlight(inventory: Path, logs: Path, name: str = "firstlight") -> Contestant:
    """Return the product; a turn counts if every host is unchanged."""

    def problem(done: Timed) -> str | None:
        if done.code:
            return f"exit code {done.code}"
        summary = json.loads((logs / "latest" / "summary.json").read_bytes())
        states = {host["name"]: host["state"] for host in summary["hosts"]}
        ok = summary["changed"] == 0 and set(states.values()) == {"unchanged"}
        return None if ok else f"changed {summary['changed']}: {states}"

    command = [str(ROOT / "firstlight"), "provision", "-i", str(inventory)]
    return Contestant(name, command, {"FIRSTLIGHT_LOGS": str(logs)}, problem)


def firstlight_by_sudo(hosts: list[FleetHost], scratch: Path) -> Contestant:
    """Return the product on the same hosts, with a login that becomes root with a password."""
    secret = hosts[0].admin_password
    inventory = write_inventory(
        scratch / "sudo", hosts, user=SUDO_WITH_PASSWORD, ansible_become=True, ansible_become_password=secret
    )
    return firstlight(inventory, scratch / "sudo-logs", "firstlight-sudo")


def ansible(name: str, programs: Path, hosts_file: Path, scratch: Path, more: Mapping[str, str]) -> Contestant:
    """Return ansible-playbook with a good configuration."""
    count = len(yaml.safe_load(hosts_file.read_text(encoding="utf-8"))["all"]["hosts"])

    def problem(done: Timed) -> str | None:
        return peers.ansible_problem(done.out, count) or (f"exit code {done.code}" if done.code else None)

    environment = {
        "ANSIBLE_CONFIG": str(scratch / "empty.cfg"),
        "ANSIBLE_HOME": str(scratch / "ansible"),
        "ANSIBLE_PIPELINING": "True",
        "ANSIBLE_FORKS": str(min(count, MOST_FORKS)),
        "ANSIBLE_GATHERING": "explicit",
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
        **more,
    }
    command = [str(programs / "ansible-playbook"), "-i", str(hosts_file), "playbooks/site.yml"]
    return Contestant(name, command, environment, problem)


def pyinfra(programs: Path, hosts_file: Path, hosts: list[FleetHost], scratch: Path) -> Contestant:
    """Return pyinfra on the same hosts, with the same host variables as data."""
    planned = yaml.safe_load(hosts_file.read_text(encoding="utf-8"))["all"]["hosts"]
    no_settings = scratch / "ssh_config"
    no_settings.touch()
    listed = [
        (
            host.name,
            {
                "ssh_hostname": host.address,
                "ssh_user": "root",
                "ssh_key": str(host.key_file),
                "ssh_allow_agent": False,
                "ssh_look_for_keys": False,
                "ssh_config_file": str(no_settings),
                "ssh_known_hosts_file": str(host.known_hosts),
                "ssh_strict_host_key_checking": "yes",
                "firstlight": planned[host.name],
                "weights_sha256": WEIGHTS_SHA256[FIRST_SEED],
            },
        )
        for host in hosts
    ]
    inventory = scratch / "pyinfra_inventory.py"
    inventory.write_text(f"hosts = {listed!r}\n", encoding="utf-8")

    def problem(done: Timed) -> str | None:
        return peers.pyinfra_problem(done.out + done.err) or (f"exit code {done.code}" if done.code else None)

    command = [str(programs / "pyinfra"), "-y", str(inventory), str(ROOT / "benchmarks" / "pyinfra_state.py")]
    return Contestant("pyinfra", command, {"NO_COLOR": "1"}, problem)


def contestants(
    inventory: Path, hosts: list[FleetHost], hosts_file: Path, logs: Path, scratch: Path
) -> tuple[list[Contestant], dict[str, str]]:
    """Return all in the order of their turns, and the versions of the peers."""
    (scratch / "empty.cfg").touch()
    ours = [firstlight(inventory, logs)]
    if len(hosts) <= SERVING:
        ours.append(firstlight_by_sudo(hosts, scratch))
    try:
        programs = peers.environment()
        versions = peers.versions(programs)
        strategy = {
            "ANSIBLE_STRATEGY": "mitogen_linear",
            "ANSIBLE_STRATEGY_PLUGINS": str(peers.mitogen_strategies(programs)),
        }
    except peers.PeerError as error:
        missing = [Contestant(name, [], {}, lambda _: None) for name in ("ansible-playbook", "mitogen", "pyinfra")]
        for each in missing:
            each.problem = str(error)
        return [*ours, *missing], {}
    return [
        *ours,
        ansible("ansible-playbook", programs, hosts_file, scratch, {}),
        ansible("mitogen", programs, hosts_file, scratch, strategy),
        pyinfra(programs, hosts_file, hosts, scratch),
    ], versions


def provision_once(inventory: Path, logs: Path, hosts_file: Path) -> float:
    """Provision bare hosts and keep what was planned for them; return the seconds. Ends the program on failure."""
    done = timed(
        [ROOT / "firstlight", "provision", "-i", inventory],
        cwd=ROOT,
        environment={"FIRSTLIGHT_LOGS": str(logs), "TERM": "dumb"},
    )
    if done.code:
        sys.exit(f"error: the first run failed\n{done.tail(6000)}")
    # The run's own file is copied: `latest` moves on to the second runs, which install nothing.
    hosts_file.write_bytes((logs / "latest" / "install" / "hosts.yml").read_bytes())
    return done.seconds


def copied(hosts_file: Path, first: FleetHost, copies: Sequence[FleetHost]) -> None:
    """Plan for each copy of a host what was planned for that one."""
    planned = yaml.safe_load(hosts_file.read_text(encoding="utf-8"))["all"]["hosts"][first.name]
    text = json.dumps(planned)
    entries = {copy.name: json.loads(text.replace(first.address, copy.address)) for copy in copies}
    hosts_file.write_text(json.dumps({"all": {"hosts": entries}}), encoding="utf-8")


def measured(fleet: Fleet, count: int, rounds: int, scratch: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Boot and provision so many hosts, and let all take turns; return the figures and the versions of the peers."""
    logs, hosts_file = scratch / "logs", scratch / "planned.yml"
    say(f"{count} hosts: provisioning for the first time: some minutes")
    if count <= SERVING:
        hosts = fleet.boot(count)
        inventory = write_inventory(scratch / "inventory", hosts)
        first = provision_once(inventory, logs, hosts_file)
    else:
        (pattern,) = fleet.boot(1)
        first = provision_once(
            write_inventory(scratch / "pattern", [pattern], firstlight_serve=False), logs, hosts_file
        )
        hosts = fleet.boot_copies(pattern, count)
        inventory = write_inventory(scratch / "inventory", hosts, firstlight_serve=False)
        copied(hosts_file, pattern, hosts)
    playing, versions = contestants(inventory, hosts, hosts_file, logs, scratch)
    load = os.getloadavg()
    for number in range(rounds + 1):
        for each in playing:
            each.turn(counts=number > 0)
    for host in hosts:
        host.remove()
    found = {"hosts": count, "rounds": rounds, "first_run_s": round(first, 1), "load_at_first_turn": load}
    return found | {"tools": compared(playing)}, versions


def compared(all_of_them: list[Contestant]) -> dict[str, Any]:
    """Return the figures of each tool, or its problem, and its time relative to the product's."""
    own = figures(all_of_them[0].samples)["median_s"] if all_of_them[0].samples else None
    entries: dict[str, Any] = {}
    for each in all_of_them:
        if each.problem is not None or not each.samples:
            entries[each.name] = {"problem": each.problem or "no turn counted"}
            continue
        entry = figures(each.samples)
        if own is not None:
            entry["times_firstlight"] = round(entry["median_s"] / own, 2)
        entries[each.name] = entry
    return entries


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="+", default=list(AIMS_S))
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    result = header("second run", ("pydantic", "fabric", "ansible-core"))
    result["fleets"], result["aim"] = [], {}
    with hosts_to_boot() as fleet:
        for count in given.hosts:
            with tempfile.TemporaryDirectory(prefix="firstlight-") as name:
                found, result["versions"]["peers"] = measured(fleet, count, given.rounds, Path(name))
            result["fleets"].append(found)
            own = [found["tools"][name].get("median_s") for name in found["tools"] if name.startswith("firstlight")]
            if (aim := AIMS_S.get(count)) is not None:
                met = all(median is not None and median <= aim for median in own)
                result["aim"][str(count)] = {"firstlight_median_s": aim, "met": met}
    met = all(aim["met"] for aim in result["aim"].values())
    result["aim"]["met"] = met
    publish(result, "second-run")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
