"""How long a group of two hosts needs after the loss of a process: until all of its servers have ended, and until it serves again.

    .venv/bin/python -m benchmarks.span [--trials 3]

Boots two test hosts, which serve one model together with real vLLM on their processors. Each trial starts both at once, then ends or stops a
process of the engine of one: of the host that answers clients, and of the other. Aim: all ended within 5 s of a death, and serving again
within the time of the start before and 10 s more. A process that a signal has stopped counts as lost after 5 s, so its aim is 5 s more. On a
busy machine a start takes longer, and not always equally long; `started` is what comes before it, until vLLM runs anew on both hosts. The
result is kept on a busy machine too, with its load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.fleet import hosts_to_boot
from benchmarks.machine import header, publish, say
from provision.features.multinode.onhost.span.watched import PATIENCE_S
from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import FleetHost, write_inventory
from tests.fleet.serving import wait_until_healthy

AIM_ENDED_S, AIM_MORE_S = 5.0, 10.0
LIMIT_S = 120.0
UNIT = "firstlight-vllm.service"
FAULTS = {"ended": "kill -9", "stopped": "kill -STOP"}


def servers(host: FleetHost) -> set[str]:
    """Return the processes of vLLM on a host, as number and start."""
    lines = (line.split(None, 2) for line in host.sh("ps -ww -eo pid=,lstart=,args=").splitlines())
    found = [" ".join(words) for words in lines]
    return {line[:40] for line in found if "VLLM::" in line or ("/bin/vllm serve" in line and "span.pyz" not in line)}


def start(hosts: list[FleetHost]) -> float:
    """Stop the group, start both hosts at once, and return the seconds until it serves. systemd forgets earlier starts."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(lambda host: host.sh(f"systemctl stop {UNIT}", timeout_s=LIMIT_S), hosts))
        list(pool.map(lambda host: host.sh(f"systemctl reset-failed {UNIT}", check=False), hosts))
        began = time.monotonic()
        list(pool.map(lambda host: host.sh(f"systemctl start --no-block {UNIT}"), hosts))
        wait_until_healthy(hosts[0])
    return time.monotonic() - began


def lose(hosts: list[FleetHost], place: int, fault: str) -> dict[str, float]:
    """Lose the first process of one host's engine.

    Returns:
        Seconds until all servers of before are gone, until each host has a new one, and until the group serves.
    """
    before = {host.name: servers(host) for host in hosts}
    pid = hosts[place].sh("pgrep -f '^VLLM::' | head -n 1").strip()
    began = time.monotonic()
    hosts[place].sh(f"{FAULTS[fault]} {pid}")

    def until(holds: Callable[[FleetHost], bool], what: str) -> float:
        while not all(holds(host) for host in hosts):
            if time.monotonic() - began > LIMIT_S:
                sys.exit(f"error: {LIMIT_S:g} s after a process was {fault}, {what}")
            time.sleep(0.05)
        return time.monotonic() - began

    ended = until(lambda host: not servers(host) & before[host.name], "servers of before are left")
    started = until(lambda host: bool(servers(host)), "no new server runs")
    wait_until_healthy(hosts[0])
    return {"ended": ended, "started": started, "serving": time.monotonic() - began}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=3, help="of each fault on each host")
    given = parser.parse_args()
    result = header("span")
    rows: list[dict[str, Any]] = []
    with hosts_to_boot() as fleet, tempfile.TemporaryDirectory() as scratch:
        hosts = fleet.boot(2)
        inventory = write_inventory(Path(scratch), hosts, firstlight_span=2, firstlight_expose=True)
        done = CommandRunner(Path(scratch) / "logs")("provision", "-i", str(inventory))
        if done.code:
            sys.exit(done.output())
        for _ in range(given.trials):
            for (place, role), fault in product(enumerate(("head", "member")), FAULTS):
                before = start(hosts)
                rows.append(_row(role, fault, before, lose(hosts, place, fault)))
                say(json.dumps(rows[-1]))
    result["trials"] = rows
    result["aim"] = {
        "ended_s": AIM_ENDED_S,
        "serving_s": f"start + {AIM_MORE_S:g}",
        "met": all(row["met"] for row in rows),
    }
    result["load_at_end"] = [round(value, 2) for value in os.getloadavg()]
    publish(result, "span", always=True)
    return 0 if result["aim"]["met"] else 1


def _row(role: str, fault: str, start_s: float, lost: dict[str, float]) -> dict[str, Any]:
    late = PATIENCE_S if fault == "stopped" else 0.0
    met = lost["ended"] <= AIM_ENDED_S + late and lost["serving"] <= start_s + AIM_MORE_S + late
    seconds = {f"{name}_s": round(value, 1) for name, value in {"start": start_s, **lost}.items()}
    return {"of": role, "fault": fault, **seconds, "met": met}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.TimeoutExpired as late:
        sys.exit(f"error: {late}")
