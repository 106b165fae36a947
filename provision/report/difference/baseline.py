"""Which earlier run a host is compared with: the last in which it was green."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from provision.models.records import HostDifference
from provision.report.difference.compare import differences
from provision.report.difference.records import GREEN_STATES, HostRecords, read_records
from provision.report.history.runs import document, names, order


def last_green(logs: Path, run: str, hosts: Collection[str]) -> Mapping[str, HostRecords]:
    """Each host's records of the last run before `run` in which it was green; a host that never was is left out."""
    found: dict[str, HostRecords] = {}
    for name in names(logs):
        wanted = set(hosts) - found.keys()
        if not wanted:
            break
        if order(name) >= order(run) or not _promises(logs / name, wanted):
            continue
        records = read_records(logs / name).hosts
        found |= {host: entry for host, entry in records.items() if host in wanted and entry.is_green}
    return found


def _promises(folder: Path, wanted: Collection[str]) -> bool:
    """Whether a run's summary names one of the hosts as well: then its records are worth reading."""
    try:
        hosts = document(folder / "summary.json").get("hosts") or ()
        return any(host["name"] in wanted and host["state"] in GREEN_STATES for host in hosts)
    except (KeyError, TypeError):
        return False


def since_green(logs: Path, run: str, hosts: Collection[str]) -> dict[str, HostDifference]:
    """What changed on hosts of a run since each of them was green last; hosts that never were are left out."""
    before = last_green(logs, run, hosts)
    if not before:
        return {}
    after = read_records(logs / run).hosts
    return {
        entry.host: entry
        for entry in differences(before, {name: after[name] for name in hosts if name in after})
        if entry.before is not None
    }
