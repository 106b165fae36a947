"""A rollout of real vLLM behind a real gateway, under the load of OpenAI's own client: requests lost, streams broken, seconds.

    .venv/bin/python -m benchmarks.rollout [--clients 4] [--folder FOLDER]

Boots a gateway with Debian's HAProxy and two hosts that serve the built-in model with real vLLM on their processors. Clients of the package
`openai`, without its retries, ask for streams all the time, while another setting is rolled out. Aim: nothing lost, no stream broken. FOLDER keeps inventory and runs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uv import find_uv_bin

from benchmarks.fleet import hosts_to_boot
from benchmarks.harness import ROOT, header, parser, publish
from requirements.pip_settings import variables
from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import FleetHost

LOCK = ROOT / "benchmarks" / "requirements-openai.txt"
INVENTORY = "inventory/hosts.yml"
CURRENT = "/opt/firstlight/gateway/current"
STEPS = "50,100"
HOLD_S = 30.0
"""Seconds that each step lasts at least, so that clients use the first host before the second one changes."""


def client_python(folder: Path) -> Path:
    """Make an environment with OpenAI's client in a folder; return its Python."""
    python = folder / "bin/python"
    for words in (
        ["venv", "--quiet", "--no-project", "--python", sys.executable, folder],
        ["pip", "sync", "--quiet", "--require-hashes", "--python", python, LOCK],
    ):
        subprocess.run([find_uv_bin(), *map(str, words)], env={**os.environ, **variables()}, check=True)
    return python


@contextmanager
def sending(python: Path, load: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Send requests all the time, as `openai_load.Load` says; yield their rows, which are complete at the end of the block."""
    process = subprocess.Popen(
        [python, "-I", "-u", ROOT / "benchmarks" / "openai_load.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(load) + "\n")
    process.stdin.flush()
    rows: list[dict[str, Any]] = []
    lines = process.stdout
    reader = threading.Thread(target=lambda: rows.extend(json.loads(line) for line in lines))
    reader.start()
    try:
        yield rows
    finally:
        process.stdin.close()
        reader.join()
        process.wait()


def counted(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what became of the requests."""
    results = Counter(row["result"] for row in rows)
    return {
        "requests": len(rows),
        "lost": results["lost"],
        "broken": results["broken"],
        "longest_s": round(max(row["seconds"] for row in rows), 1),
        "errors": dict(Counter(row["error"] for row in rows if row["error"])),
    }


class Site:
    """A gateway and hosts that serve behind it."""

    def __init__(self, folder: Path, gateway: FleetHost, hosts: list[FleetHost]) -> None:
        self.folder, self.gateway, self.hosts = folder, gateway, hosts
        self.command = CommandRunner(folder / "logs")

    def inventory(self, **variables: Any) -> str:
        """Write an inventory whose hosts serve with these settings; return its path, seen from the folder of the commands."""
        serving = {host.name: {**host.inventory_entry(), "firstlight_bind": host.address} for host in self.hosts}
        groups = {
            "gateway": {"hosts": {self.gateway.name: self.gateway.inventory_entry()}},
            "serving": {"hosts": serving, "vars": variables},
        }
        path = self.folder / INVENTORY
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"all": {"children": groups, "vars": {"firstlight_expose": True}}}, indent=2))
        return INVENTORY

    def load(self, clients: int) -> dict[str, Any]:
        """Return the load for the address that clients know."""
        key = self.gateway.sh(f"cut -d' ' -f1 {CURRENT}/clients.map").split()[0]
        pem = self.gateway.sh(f"openssl x509 -in {CURRENT}/certificate.pem")
        return {
            "base_url": f"https://{self.gateway.address}:8443/v1",
            "key": key,
            "certificate": pem,
            "model": "builtin-1",
            "clients": clients,
            "tokens": 16,
            "pause_s": 0.1,
        }


def roll_out(site: Site, python: Path, clients: int) -> dict[str, Any]:
    """Roll out another setting under load."""
    inventory = site.inventory(firstlight_max_model_len=512)
    with sending(python, site.load(clients)) as sent:
        started = time.monotonic()
        done = site.command("rollout", "-i", inventory, "--steps", STEPS, "--hold", f"{HOLD_S:g}", "--json")
        seconds = time.monotonic() - started
    record, counts = json.loads(done.out), counted(sent)
    gates = [f"{one['verdict']}: {one['text']}" for one in record["decisions"]]
    met = done.code == 0 and not counts["lost"] and not counts["broken"]
    aim = {"lost": 0, "broken": 0, "met": met}
    return {"state": record["state"], "seconds": round(seconds, 1), "gates": gates, **counts, "aim": aim}


def versions(site: Site) -> dict[str, str]:
    """Return the versions of what took part; that of OpenAI's client is in its lock."""
    ask = "from importlib.metadata import version; print(version('vllm'), version('torch'))"
    vllm, torch = site.hosts[0].sh(f'/opt/firstlight/current/bin/python -I -c "{ask}"').split()
    [openai] = re.findall(r"^openai==(\S+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    return {"openai": openai, "haproxy": site.gateway.sh("haproxy -v").split()[2], "vllm": vllm, "torch": torch}


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--clients", type=int, default=4)
    options.add_argument("--folder", type=Path, help="keeps inventory and runs")
    given, result = options.parse_args(), header("rollout")
    with tempfile.TemporaryDirectory() as scratch, hosts_to_boot() as fleet:
        python = client_python(Path(scratch) / "openai")
        [gateway] = fleet.boot(1, packages=("haproxy", "openssl"))
        site = Site(given.folder or Path(scratch), gateway, fleet.boot(2))
        made = site.command("provision", "-i", site.inventory())
        if made.code:
            sys.exit(made.output())
        result["versions"] |= versions(site)
        result |= {"hosts": len(site.hosts), "clients": given.clients, "steps": STEPS, "hold_s": HOLD_S}
        result |= roll_out(site, python, given.clients)
    publish(result, "rollout", always=True)
    return 0 if result["aim"]["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
