"""How long a group of two hosts needs after the loss of a process: until all of its servers have ended, and until it serves again.

    .venv/bin/python -m benchmarks.span [--trials 3]

Boots two test hosts, which serve one model together with real vLLM on their processors. Each trial starts both at once, then ends or stops a
process of one, with its server or its engine, first on the host that answers clients, then on the other. Aim: all ended within 5 s of a death, and
serving again within the time of a start and 10 s more. A process that a signal has stopped counts as lost after 5 s, so its aim is 5 s more.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.fleet import hosts_to_boot
from benchmarks.machine import header, publish, say
from provision.phases.serve.onhost.span.stopped import PATIENCE_S
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
    return {line[:40] for line in found if "VLLM::" in line or "/bin/vllm serve" in line}


def start(hosts: list[FleetHost]) -> float:
    """Stop the group, start both hosts at once, and return the seconds until it serves."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(lambda host: host.sh(f"systemctl stop {UNIT}", timeout_s=LIMIT_S), hosts))
        began = time.monotonic()
        list(pool.map(lambda host: host.sh(f"systemctl start --no-block {UNIT}"), hosts))
        wait_until_healthy(hosts[0])
    return time.monotonic() - began


def lose(hosts: list[FleetHost], place: int, fault: str) -> tuple[float, float]:
    """Lose the engine's process of one host; return the seconds until all servers of before are gone, and until the group serves."""
    before = {host.name: servers(host) for host in hosts}
    pid = hosts[place].sh("pgrep -f '^VLLM::' | head -n 1").strip()
    began = time.monotonic()
    hosts[place].sh(f"{FAULTS[fault]} {pid}")
    while any(servers(host) & before[host.name] for host in hosts):
        if time.monotonic() - began > LIMIT_S:
            sys.exit(f"error: servers of before are left {LIMIT_S:g} s after one was {fault}")
        time.sleep(0.05)
    ended = time.monotonic() - began
    wait_until_healthy(hosts[0])
    return ended, time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=3)
    given = parser.parse_args()
    result = header("span")
    starts, losses = [], []
    with hosts_to_boot() as fleet, tempfile.TemporaryDirectory() as scratch:
        hosts = fleet.boot(2)
        inventory = write_inventory(Path(scratch), hosts, firstlight_span=2, firstlight_expose=True)
        done = CommandRunner(Path(scratch) / "logs")("provision", "-i", str(inventory))
        if done.code:
            sys.exit(done.output())
        for _ in range(given.trials):
            starts.append(start(hosts))
            for place, role in enumerate(("head", "member")):
                for fault in FAULTS:
                    ended, serving = lose(hosts, place, fault)
                    losses.append({"of": role, "fault": fault, "ended_s": ended, "serving_s": serving})
                    say(f"start {starts[-1]:.1f} s; {role} {fault}: all ended {ended:.1f} s, serving {serving:.1f} s")
    result["start"] = {"trials": len(starts), "median_s": round(median(starts), 1), "longest_s": round(max(starts), 1)}
    result["losses"] = [_row(fault, losses, median(starts)) for fault in FAULTS]
    met = all(row["met"] for row in result["losses"])
    result["aim"] = {"ended_s": AIM_ENDED_S, "serving_s": "start + 10", "met": met}
    publish(result, "span")
    return 0 if met else 1


def _row(fault: str, losses: list[dict[str, Any]], started_s: float) -> dict[str, Any]:
    ended = [loss["ended_s"] for loss in losses if loss["fault"] == fault]
    serving = [loss["serving_s"] for loss in losses if loss["fault"] == fault]
    late = PATIENCE_S if fault == "stopped" else 0.0
    return {
        "fault": fault,
        "trials": len(ended),
        "ended": {"median_s": round(median(ended), 1), "longest_s": round(max(ended), 1), "aim_s": AIM_ENDED_S + late},
        "serving": {
            "median_s": round(median(serving), 1),
            "longest_s": round(max(serving), 1),
            "aim_s": round(started_s + AIM_MORE_S + late, 1),
        },
        "met": max(ended) <= AIM_ENDED_S + late and max(serving) <= started_s + AIM_MORE_S + late,
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.TimeoutExpired as late:
        sys.exit(f"error: {late}")
