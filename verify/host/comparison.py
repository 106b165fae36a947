"""Comparison of the hosts of a fleet: which of them differs from the others."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from verify.records import FLEET, SEVERITY, CheckResult, as_record
from verify.runner.registry import all_checks


def compare(documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the records that compare several hosts' documents; none for fewer than two hosts.

    Checks that compare equal devices of one host compare those of all hosts; then the statuses are compared.
    """
    if len({document["host"] for document in documents}) < 2:
        return []
    records = []
    for check in all_checks():
        named = ((f"{one['host']} {record['device']}", record) for one in documents for record in one["checks"])
        if combined := check.compare_devices(named):
            records.append(as_record(check.id, None, None, combined, 0.0))
    odd = list(_odd_statuses(documents))
    healthy = f"{len(documents)} hosts have the same results"
    outcome = CheckResult("warn", "; ".join(odd)) if odd else CheckResult("ok", healthy)
    return [*records, as_record(FLEET, None, None, outcome, 0.0)]


def _odd_statuses(documents: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Report checks that are worse on few hosts than on most. A fault of most hosts makes none of them differ."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for document in documents:
        for record in document["checks"]:
            before = found[record["id"]].get(document["host"], "skip")
            found[record["id"]][document["host"]] = max(before, record["status"], key=SEVERITY.index)
    for check, statuses in sorted(found.items()):
        usual, count = Counter(statuses.values()).most_common(1)[0]
        bad = [host for host, status in statuses.items() if status not in ("ok", "skip")]
        worse = [host for host in bad if SEVERITY.index(statuses[host]) > SEVERITY.index(usual)]
        if 2 * count > len(statuses):
            details = (f"{host}: {check} {statuses[host]}" for host in worse)
            yield from (f"{text}, where {count} of {len(statuses)} hosts are {usual}" for text in details)
