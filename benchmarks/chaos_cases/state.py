"""The state of a host and of the controller after a run, and how two of them differ."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.fleet.commands import command
from tests.fleet.hosts import FleetHost
from tests.fleet.listing import differences, listing

State = dict[str, dict[str, str]]
"""By part, then by name. The parts of `LEFT` are those in which nothing may be left behind."""

LEFT = ("processes", "temporary files", "keys", "firewall", "controller's processes", "controller's files")
ABSENT = "absent"
SETTLED_S = 45.0
"""Processes that end with the connection of a run get this time: Ansible's end 20 s after their last use."""

MODE_ONLY = {
    "etc/service.env": "the API key, which is made once for each installation",
    "releases/switch.json": "the releases before the last switch, which earlier runs decide; the links to them are compared",
}
"""Files of which only mode and owner are compared, with the reason."""

_LOOK = r"""
import hashlib, json, os, re, subprocess

def out(*words):
    return subprocess.run(words, capture_output=True, text=True).stdout.splitlines()

def plain(text):
    # Numbers of processes, ports and descriptors, and names that are drawn at random.
    return re.sub(r"[0-9a-f]{8,}(-\d+)?|\d+", "N", text)

own = set()
pid = os.getpid()
while pid > 1:
    own.add(pid)
    pid = int(open("/proc/%d/stat" % pid).read().rpartition(")")[2].split()[1])
processes = {}
for name in os.listdir("/proc"):
    if not name.isdigit() or int(name) in own:
        continue
    try:
        words = open("/proc/%s/cmdline" % name, "rb").read().replace(b"\0", b" ").decode(errors="replace").strip()
        owner = os.stat("/proc/" + name).st_uid
    except OSError:
        continue
    if words:
        key = "%d %s" % (owner, plain(words)[:160])
        processes[key] = str(int(processes.get(key, "0")) + 1)

temporary = {}
for top in ("/tmp", "/var/tmp", "/dev/shm", "/root/.ansible"):
    for folder, folders, names in os.walk(top):
        for name in folders + names:
            path = re.sub(r"/systemd-private-.*-([^-]+\.service)-[^/]+", r"/systemd-private-\1", os.path.join(folder, name))
            temporary[re.sub(r"(psm|sem\.mp|torch)[-_][^/]+", r"\1_N", path)] = "there"
        # What a unit has for itself ends with it, and has names that are drawn at random.
        folders[:] = [name for name in folders if not name.startswith("systemd-private-")]

keys = {}
for home in ["/root", *("/home/" + name for name in os.listdir("/home"))]:
    for name in os.listdir(home + "/.ssh") if os.path.isdir(home + "/.ssh") else ():
        with open(os.path.join(home, ".ssh", name)) as file:
            lines = [line for line in file if not line.endswith(" test fleet\n")]
        keys[os.path.join(home, ".ssh", name)] = "%d lines %s" % (len(lines), hashlib.sha256("".join(lines).encode()).hexdigest())

def column(lines, at):
    return {line.split()[0]: " ".join(line.split()[at:]) for line in lines if line.split()}

print(json.dumps({
    "units": {
        **column(out("systemctl", "list-unit-files", "--no-legend", "--plain"), 1),
        **{"active " + name: state for name, state in column(out("systemctl", "list-units", "--all", "--no-legend", "--plain", "firstlight*"), 2).items()},
        **{"failed " + name: "failed" for name in column(out("systemctl", "--failed", "--no-legend", "--plain"), 0)},
    },
    "users": {line.split(":")[0]: line for line in [*out("getent", "passwd"), *("group " + line for line in out("getent", "group"))]},
    "packages": dict(line.split(" ", 1) for line in out("dpkg-query", "-W", "-f", "${binary:Package} ${Version} ${db:Status-Status}\n")),
    "processes": processes,
    "temporary files": temporary,
    "keys": keys,
}))
"""


def state_of(host: FleetHost, *, logs: Path, scratch: Path) -> State:
    """Return the state of a host, and what runs left on this machine.

    Args:
        host: The host.
        logs: The folder of the runs whose processes are looked for here.
        scratch: The folder for temporary files that those runs were given.
    """
    found: State = json.loads(host.sh(f"python3 - <<'END'\n{_LOOK}\nEND\n"))
    leader = host.machine.leader
    rules = command("nsenter", "--target", str(leader), "--net", "nft", "list", "ruleset", check=False)
    return {
        **found,
        "files": listing(host),
        "firewall": {line.strip(): "there" for line in rules.splitlines() if line.strip()},
        "controller's processes": processes_of(logs),
        "controller's files": {str(path.relative_to(scratch)): "there" for path in scratch.rglob("*")},
    }


def processes_of(logs: Path) -> dict[str, str]:
    """Return the arguments of this machine's processes that were started with a folder for their runs."""
    mark = f"FIRSTLIGHT_LOGS={logs}".encode()
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found[process.name] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found


def settled(host: FleetHost, reference: State | None, *, logs: Path, scratch: Path) -> State:
    """Return the state when nothing more is left behind than in a reference, or after `SETTLED_S`."""
    deadline = time.monotonic() + SETTLED_S
    while True:
        state = state_of(host, logs=logs, scratch=scratch)
        if reference is None or time.monotonic() > deadline or not left_in(compare(reference, state)):
            return state
        time.sleep(2)


def compare(reference: State, state: State) -> list[str]:
    """Return how a state differs from that of an undisturbed host, part by part.

    Fewer processes or temporary files are no difference: a restart ends and removes them.
    """
    found = []
    for part in reference.keys() | state.keys():
        before, after = (_normal(part, each.get(part, {})) for each in (reference, state))
        changed: Mapping[str, tuple[str | None, str | None]]
        if part == "files":
            changed = differences(before, after)
        elif part == "processes":
            changed = {
                name: (before.get(name), number)
                for name, number in after.items()
                if int(number) > int(before.get(name, "0"))
            }
        else:
            names = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
            if part == "temporary files":
                names = [name for name in names if name in after]
            changed = {name: (before.get(name), after.get(name)) for name in names}
        found += [f"{part}: {name}: {old or ABSENT} -> {new or ABSENT}" for name, (old, new) in changed.items()]
    return sorted(found)


def left_in(found: Iterable[str]) -> list[str]:
    """Return the differences that are something left behind: more than an undisturbed host has."""
    return [line for line in found if line.partition(": ")[0] in LEFT and not line.endswith(f" -> {ABSENT}")]


def _normal(part: str, names: dict[str, str]) -> dict[str, str]:
    if part != "files":
        return names
    return {name: " ".join(text.split()[:2]) if name in MODE_ONLY else text for name, text in names.items()}


def shortened(found: list[str], longest: int = 20) -> list[str]:
    """Return differences for a row: without digests, and not more than some."""
    lines = [re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", line) for line in found]
    return lines if len(lines) <= longest else [*lines[:longest], f"and {len(lines) - longest} more"]
