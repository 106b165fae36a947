"""Bytes that leave the controller for eight equal cold hosts that hand files on to each other, compared with one host.

    .venv/bin/python -m benchmarks.bytes [--hosts 8] [--vllm none]

Boots bare test hosts that have the OS packages and no network but their own. `./firstlight install` then brings an environment to one of
them, and after that to all others at once. Counted is what the controller sends into their network, by its interface: files, SSH, Ansible. What
one host sends to another crosses the bridge and is not in that figure. Nothing is timed, so the result is always kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.fleet import hosts_to_boot
from benchmarks.machine import ROOT, header, publish, say
from benchmarks.timing import timed
from tests.fleet.hosts import FleetHost, write_inventory
from tests.fleet.layers import FOR_A_USER

AIM_RATIO = 2.5
KEYS = "/root/.ssh/authorized_keys"


def sent_into(network: str) -> int:
    """Return the bytes that this machine has sent into a network of hosts."""
    return int(Path("/sys/class/net", network, "statistics", "tx_bytes").read_text(encoding="ascii"))


def install(hosts: list[FleetHost], network: str, scratch: Path, vllm: str) -> dict[str, Any]:
    """Install on hosts, and return the bytes by source and how often each host was sent to by whom."""
    inventory = write_inventory(scratch / hosts[0].name, hosts, firstlight_serve=False)
    logs = scratch / f"logs-{hosts[0].name}"
    keys = [host.sh(f"cat {KEYS}") for host in hosts]
    before = sent_into(network)
    command = [str(ROOT / "firstlight"), "install", "-i", str(inventory), "--vllm", vllm]
    done = timed(command, cwd=ROOT, environment={"FIRSTLIGHT_LOGS": str(logs)})
    sent = sent_into(network) - before
    summary = json.loads((logs / "latest" / "summary.json").read_bytes())
    states = [host["state"] for host in summary["hosts"]]
    if done.code or states != ["installed"] * len(hosts):
        sys.exit(f"error: {states}, exit code {done.code}\n{done.tail()}")
    left = "ls -d /var/tmp/firstlight-*/.peers 2>/dev/null || true"
    if [host.sh(f"cat {KEYS}; {left}") for host in hosts] != keys:
        sys.exit("error: access of hosts to each other was left")
    events = map(json.loads, (logs / "latest" / "events.jsonl").read_text(encoding="utf-8").splitlines())
    sources = {event["host"]: event.get("peer", "controller") for event in events if event["kind"] == "sent"}
    transfers = summary["transfers"]
    say(
        f"{len(hosts)} hosts: {sent / 2**20:.1f} MiB left the controller, {transfers['peers'] / 2**20:.1f} MiB went from host to host"
    )
    return {"hosts": len(hosts), "interface_bytes": sent, "sources": sources, **transfers}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=8)
    parser.add_argument("--vllm", default="none", help="none: an environment with torch alone, which is small")
    given = parser.parse_args()
    result = header("bytes") | {"vllm": given.vllm}
    with hosts_to_boot() as fleet, tempfile.TemporaryDirectory() as scratch:
        one, *others = fleet.boot(given.hosts + 1, packages=FOR_A_USER)
        result["one"] = install([one], fleet.network.name, Path(scratch), given.vllm)
        result["all"] = install(others, fleet.network.name, Path(scratch), given.vllm)
    result["ratio"] = round(result["all"]["interface_bytes"] / result["one"]["interface_bytes"], 3)
    met = result["ratio"] <= AIM_RATIO
    result["aim"] = {"ratio": AIM_RATIO, "met": met}
    publish(result, "bytes", always=True)
    return 0 if met else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.TimeoutExpired as late:
        sys.exit(f"error: {late}")
