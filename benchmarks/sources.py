"""Bytes from the registry for one and for eight equal cold hosts, and hosts that get their files by themselves.

    .venv/bin/python -m benchmarks.sources [--hosts 8] [--boot]

`one` and `all` run the phases `plan` and `stage` for hosts without an environment, each in a new process with empty caches. A package index on this
machine hands on the user's indexes and counts what it sends. The hosts are described, nobody connects to them: a host gets its files from the controller or another host, and
builds without a network. With `--boot`, as root, `path` is a whole `./firstlight install` of a booted host with a copy of the controller's cache, `host` one of a
host that reaches the user's indexes by its own settings. Nothing is timed, so the result is always kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.bytes import sent_into
from benchmarks.fleet import hosts_to_boot
from benchmarks.machine import ROOT, header, publish, say
from benchmarks.registry import registry_at
from benchmarks.timing import timed
from provision.catalog.index.settings import ClientSettings
from provision.core.install_paths import install_paths_of
from provision.core.models.inventory import Connection, Host, Inventory
from provision.core.models.settings import Settings
from provision.core.run_folder import RunFolder
from provision.phases.plan.what_if import parse_what_if
from provision.pipeline.context import RunContext
from provision.pipeline.plan import plan
from provision.pipeline.results import ProbedHosts
from provision.pipeline.stage import stage
from provision.report.live import open_progress
from tests.fleet.hosts import FleetHost, write_inventory
from tests.fleet.layers import FOR_A_USER

AIM_RATIO = 1.0
DESCRIBED = "os=debian-12 glibc=2.36 arch=x86_64 cpu=avx512 python=3.11 ram=64 disk=200"
FOLDER = "/srv/share"


def staged_bytes(count: int, index: str, scratch: Path) -> int:
    """Plan and stage for so many equal hosts with the files of an index; return the bytes that all of them need."""
    settings = Settings(vllm="none", serve=False)
    connection = Connection(kind="ssh", address="192.0.2.1")
    hosts = tuple(Host(name=f"host{number}", connection=connection, settings=settings) for number in range(count))
    facts = {host.name: parse_what_if(DESCRIBED).model_copy(update={"host": host.name}) for host in hosts}
    paths = {host.name: install_paths_of(host, facts[host.name]) for host in hosts}
    with open_progress([host.name for host in hosts]) as progress:
        context = RunContext(
            run=RunFolder.create(scratch / "logs", command="stage"),
            inventory=Inventory(source="described", hosts=hosts),
            progress=progress,
            cache=scratch / "cache",
            client=ClientSettings(index=index),
            package_sources={},
        )
        with context.stack:
            found = stage(context, plan(context, ProbedHosts(facts=facts, install_paths=paths)))
    if len(found.staged) != count:
        sys.exit(f"error: {context.results}")
    return sum(file.size for staged in found.staged.values() for file in staged.files)


def from_registry(count: int) -> dict[str, Any]:
    """Return what the registry sends for so many cold hosts."""
    with tempfile.TemporaryDirectory() as scratch, registry_at("127.0.0.1") as registry:
        environment = {"UV_CACHE_DIR": f"{scratch}/uv", "UV_NO_CONFIG": "1", "no_proxy": "127.0.0.1"}
        command = [sys.executable, "-m", "benchmarks.sources", "--once", str(count), registry.url, scratch]
        done = timed(command, cwd=ROOT, environment=environment)
        if done.code:
            sys.exit(f"error: {count} hosts: {done.tail()}")
        result = {"hosts": count, "registry_bytes": registry.bytes.total(), "needed_bytes": int(done.out.split()[-1])}
    say(f"{result}")
    return result


def install(name: str, host: FleetHost, network: str, scratch: Path, **settings: Any) -> dict[str, Any]:
    """Install on a booted host; return the bytes by source and what left this machine into its network."""
    inventory = write_inventory(scratch / name, [host], firstlight_serve=False, firstlight_vllm="none", **settings)
    logs, before = scratch / f"logs-{name}", sent_into(network)
    environment = {"FIRSTLIGHT_LOGS": str(logs), "FIRSTLIGHT_CACHE": str(scratch / "cache")}
    done = timed([str(ROOT / "firstlight"), "install", "-i", str(inventory)], cwd=ROOT, environment=environment)
    if done.code:
        sys.exit(f"error: {name} ended with {done.code}\n{done.tail()}")
    transfers = json.loads((logs / "latest" / "transfers.json").read_bytes())
    say(f"{name}: {transfers}")
    return {"hosts": 1, "interface_bytes": sent_into(network) - before, **transfers}


def booted() -> dict[str, Any]:
    """Return the bytes of a host with a folder, and of one that asks its own indexes."""
    with hosts_to_boot() as fleet, tempfile.TemporaryDirectory() as name:
        scratch, network = Path(name), fleet.network.name
        [online] = fleet.boot(1, online=True, packages=FOR_A_USER)
        found = {"host": install("host", online, network, scratch, firstlight_source="host")}
        [with_folder] = fleet.boot(1, packages=FOR_A_USER)
        shutil.copytree(scratch / "cache" / "files", with_folder.machine.root / FOLDER.strip("/") / "files")
        own = {"firstlight_source": "path", "firstlight_source_folder": FOLDER}
        return found | {"path": install("path", with_folder, network, scratch, **own)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=8)
    parser.add_argument("--boot", action="store_true", help="install on booted hosts too")
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        print(staged_bytes(int(given.once[0]), given.once[1], Path(given.once[2])))
        return 0
    result: dict[str, Any] = header("sources")
    result["real"] = (
        "index pages and files of the user's indexes, planning, locking, fetching; the hosts of `one` and `all` are described"
    )
    result["one"], result["all"] = from_registry(1), from_registry(given.hosts)
    if given.boot:
        result |= booted()
    result["ratio"] = round(result["all"]["registry_bytes"] / result["one"]["registry_bytes"], 3)
    met = result["ratio"] <= AIM_RATIO
    result["aim"] = {"ratio": AIM_RATIO, "met": met}
    publish(result, "sources", always=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
