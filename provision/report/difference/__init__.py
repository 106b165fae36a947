"""What changed between two runs, host by host: records in, differences out (docs/reference/logs.md).

`compare.differences` compares what runs know of their hosts, `read_records` there reads that from a run's folder, and `last_green`
finds for each host the run in which it was green last. Nothing here writes.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from provision.core.models.records import HostDifference
from provision.core.run_folder import RunFolder
from provision.report.difference.compare import HostRecords, differences, read_records
from provision.report.history.runs import document, find, green_hosts, names, order
from provision.report.run_files import inventory_of


def last_green(logs: Path, run: str, hosts: Collection[str]) -> Mapping[str, HostRecords]:
    """Return each host's records of its last green run before `run`; hosts that never were green are left out.

    What was reached at another address counts as another host: runs of several inventories may be in one folder.
    """
    found: dict[str, HostRecords] = {}
    now = connections(logs / run)
    for name in names(logs):
        green = green_hosts(logs / name) & (set(hosts) - found.keys()) if order(name) < order(run) else frozenset()
        then = connections(logs / name) if green else {}
        if same := {host for host in green if now.get(host) in (then.get(host), None)}:
            found |= {host: records for host, records in read_records(logs / name).items() if host in same}
    return found


def connections(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return where the hosts of a run are reached, and through what; none where its inventory cannot be read.

    That of a run's own machine is the machine: several may have one folder of runs.
    """
    inventory, own = inventory_of(RunFolder(folder)), document(folder / "run.json").get("controller")
    ways = {host.name: host.connection for host in inventory.hosts} if inventory else {}
    return {
        name: (
            way.proxy_command,
            *((one.kind, own if one.kind == "local" else one.address, one.port) for one in (way, *way.proxy_jump)),
        )
        for name, way in ways.items()
    }


def compare_runs(logs: Path, before: str | None = None, after: str | None = None) -> tuple[HostDifference, ...]:
    """Compare run `after` (default: the newest) with run `before` (default: each host's last green run).

    Raises:
        UsageError: There is no such run.
    """
    folder = find(logs, after)
    newer = read_records(folder)
    older = read_records(find(logs, before)) if before else last_green(logs, RunFolder(folder).name, newer.keys())
    return differences(older, newer)


def since_green(logs: Path, run: str, hosts: Collection[str]) -> dict[str, HostDifference]:
    """Return what changed on hosts since each was green last; hosts that never were are left out."""
    before = last_green(logs, run, hosts)
    if not before:
        return {}
    after = read_records(logs / run)
    return {
        entry.host: entry
        for entry in differences(before, {name: after[name] for name in hosts if name in after})
        if entry.before is not None
    }
