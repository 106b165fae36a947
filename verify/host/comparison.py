"""Comparison of the hosts of a fleet: which of them differs from the others."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from verify.records import FLEET, SEVERITY, CheckResult, as_record
from verify.runner.registry import all_checks


def compare(documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the records that compare several hosts' documents; none for fewer than two hosts.

    Checks that compare equal devices of one host compare those of all hosts with the same environment; then the statuses are compared.
    """
    if len({document["host"] for document in documents}) < 2:
        return []
    records = []
    by_digest = [(str(document.get("environment")).partition("-")[0], document) for document in documents]
    for check, digest in product(all_checks(), dict(by_digest)):  # other libraries give other bits and speeds
        alike = (document for its_digest, document in by_digest if its_digest == digest)
        named = ((f"{one['host']} {record['device']}", record) for one in alike for record in one["checks"])
        if combined := check.compare_devices(named):
            records.append(as_record(check.id, None, None, combined, 0.0))
    statuses = _statuses(documents)
    odd = list(_odd_statuses(statuses))
    is_equal = all(len({*by_host.values()} - {"skip"}) < 2 for by_host in statuses.values())
    hosts = len(documents)
    healthy = (
        f"{hosts} hosts have the same results" if is_equal else f"no host has worse results than most of the {hosts}"
    )
    outcome = CheckResult("warn", "; ".join(odd)) if odd else CheckResult("ok", healthy)
    return [*records, as_record(FLEET, None, None, outcome, 0.0)]


def _statuses(documents: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return the worst status of each check on each host, by check."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for document in documents:
        for record in document["checks"]:
            before = found[record["id"]].get(document["host"], "skip")
            found[record["id"]][document["host"]] = max(before, record["status"], key=SEVERITY.index)
    return found


def _odd_statuses(statuses: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Report checks that are worse on few hosts than on most, or bad on some where no status is that of most hosts, as of two that differ.

    A fault of most hosts makes none of them differ.
    """
    for check, by_host in sorted(statuses.items()):
        usual, count = Counter(by_host.values()).most_common(1)[0]
        bad = [host for host, status in by_host.items() if status not in ("ok", "skip")]
        if 2 * count > len(by_host):
            odd = [host for host in bad if SEVERITY.index(by_host[host]) > SEVERITY.index(usual)]
            others = f"where {count} of {len(by_host)} hosts are {usual}"
        else:
            odd, others = bad, f"where the {len(by_host)} hosts have no majority"
        yield from (f"{host}: {check} {by_host[host]}, {others}" for host in odd)
