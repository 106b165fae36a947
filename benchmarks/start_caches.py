"""The start of an engine that got what an equal host compiled, compared with the starts of hosts that compile.

    .venv/bin/python -m benchmarks.start_caches [--layers 16]

Boots three equal test hosts, which serve a small model with real vLLM on their processors, compiled, one after the other: the first one makes
the start cache, the second one has to compile for itself (`firstlight_start_caches: off`), the third one gets the cache of the first. Aim: the
engine of the third starts in half the time of the first, and writes no compiled code.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.fleet import hosts_to_boot
from benchmarks.machine import ROOT, header, publish, say
from tests.fleet.bigrams import write_model
from tests.fleet.command_runner import CommandRunner, Ended
from tests.fleet.hosts import FleetHost
from tests.fleet.serving import PREFIX

AIM = 0.5
LAYERS = 16
"""As many as a model of one billion parameters has."""
ROLES = ("first", "alone", "received")
ENGINE = re.compile(r"init engine .*? took ([0-9.]+) s")


class Site:
    """Three hosts of one inventory, of which one shares no start caches."""

    def __init__(self, folder: Path, hosts: list[FleetHost], layers: int) -> None:
        self.hosts = dict(zip(ROLES, hosts, strict=True))
        self._inventory, self._model = folder / "hosts.yml", folder / "model"
        self._command = CommandRunner(folder / "logs")
        write_model(self._model, (ROOT / "README.md").read_text(encoding="utf-8"), layers=layers)

    def provision(self, *words: str, serve: bool) -> Ended:
        """Provision hosts; end the program where it fails."""
        hosts = {
            host.name: {**host.inventory_entry(), "firstlight_start_caches": "off" if role == "alone" else "share"}
            for role, host in self.hosts.items()
        }
        settings = {"firstlight_model": str(self._model), "firstlight_serve": serve}
        self._inventory.write_text(json.dumps({"fleet": {"hosts": hosts, "vars": settings}}))
        done = self._command("provision", "-i", str(self._inventory), *words)
        if done.code:
            sys.exit(done.output())
        return done

    def start(self, role: str) -> dict[str, Any]:
        """Start the service of one host, with no other one; return its times and what it compiled."""
        host = self.hosts[role]
        load = os.getloadavg()[0]
        done = self.provision("--limit", host.name, serve=True)
        summary = done.host(host.name)
        events = [json.loads(line) for line in (done.run / "events.jsonl").read_text().splitlines()]
        log = host.sh("journalctl -o cat -u firstlight-vllm")
        made = host.sh(f"find {PREFIX}/cache/start-* -name '*.so' | wc -l")
        row = {
            "role": role,
            "load_before": round(load, 2),
            "engine_s": float(ENGINE.findall(log)[-1]),
            "until_healthy_s": summary["serve"]["startup_s"]["health"],
            "libraries_in_cache": int(made),
            "start_cache": [event["state"] for event in events if event["kind"] == "start-cache"],
            "notes": [note for note in summary["notes"] if "start cache" in note],
        }
        host.sh("systemctl stop firstlight-vllm", timeout_s=180)
        say(json.dumps(row))
        return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=LAYERS)
    layers = parser.parse_args().layers
    result = header("start_caches") | {"layers": layers}
    with hosts_to_boot() as fleet, tempfile.TemporaryDirectory() as scratch:
        site = Site(Path(scratch), fleet.boot(len(ROLES)), layers)
        site.provision(serve=False)
        ask = "from importlib.metadata import version; print(version('vllm'), version('torch'))"
        found = site.hosts["first"].sh(f'{PREFIX}/envs/*/bin/python -I -c "{ask}"').split()
        result["versions"] |= dict(zip(("vllm", "torch"), found, strict=True))
        result["starts"] = starts = [site.start(role) for role in ROLES]
    first, alone, received = starts
    ratio = received["engine_s"] / first["engine_s"]
    result["engine"] = {
        "received_to_first": round(ratio, 3),
        "received_to_alone": round(received["engine_s"] / alone["engine_s"], 3),
    }
    result["until_healthy"] = {
        "received_to_first": round(received["until_healthy_s"] / first["until_healthy_s"], 3),
        "received_to_alone": round(received["until_healthy_s"] / alone["until_healthy_s"], 3),
    }
    nothing_compiled = received["start_cache"] == ["sent", "used"]
    result["aim"] = {
        "engine_received_to_first": AIM,
        "nothing_compiled": nothing_compiled,
        "met": ratio <= AIM and nothing_compiled,
    }
    publish(result, "start-caches", always=True)
    return 0 if result["aim"]["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
