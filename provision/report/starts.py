"""Starts of services: their phases in words, and which phase took much longer on one of several equal hosts than on the others. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from provision.core.grouping import gather
from provision.core.models.records import CheckRecord, HostSummary, Summary
from provision.core.tables import own_table
from provision.report.layout import duration
from verify.records import STARTS, CheckResult, Figure, as_record, first_few

LENGTHS = frozenset({"first_answer"})
"""Phases of a ServeRecord that are durations; all others are seconds since the start of the process."""


def starts(hosts: Iterable[HostSummary]) -> dict[str, dict[str, float]]:
    """Return the seconds from the start to the end of each phase, in order of time, of each host whose service started."""
    found = {}
    for host in hosts:
        phases = host.serve.startup_s if host.serve else {}
        known = [(phase, seconds) for phase, seconds in phases.items() if phase not in LENGTHS and seconds >= 0]
        if known:
            found[host.name] = dict(sorted(known, key=lambda item: item[1]))
    return found


def start_lengths(ends: Mapping[str, float]) -> dict[str, float]:
    """Return the duration of each phase, from the ends of `starts`."""
    return {phase: end - before for (phase, end), before in zip(ends.items(), (0.0, *ends.values()), strict=False)}


def start_phase_words(phase: str) -> str:
    """Return the displayed name of a phase."""
    return "verified" if phase == "proven" else phase.replace("_", " ")


def slowest_start(summary: Summary) -> str | None:
    """Describe the slowest start phase by phase; None without any start."""
    seen = starts(summary.hosts)
    if not seen:
        return None
    name = max(seen, key=lambda host: max(seen[host].values()))
    whose = f" on {name}, the slowest of {len(seen)}" if len(seen) > 1 else ""
    shown = ", ".join(
        f"{start_phase_words(phase)} {duration(seconds)}" for phase, seconds in start_lengths(seen[name]).items()
    )
    return f"start of the service{whose}: {shown}; in all {duration(max(seen[name].values()))}"


TABLE = Path(__file__).with_name("starts.toml")
MOST = 5
"""Phases that the text names."""


def compare_starts(hosts: Sequence[HostSummary]) -> tuple[CheckRecord, ...]:
    """Return a record with a warning about phases that took much longer than on equal hosts; none without such a phase.

    Equal hosts have the same devices, Stack and model, started in this run, and all of them were installed in it or none.
    """
    rule = own_table(TABLE)["rule"]
    seen = starts(hosts)
    equal = gather((_class_of(host), host.name) for host in hosts if host.name in seen)
    slow = [one for names in equal.values() for one in _slow({name: start_lengths(seen[name]) for name in names})]
    if not slow:
        return ()
    details = [f"{one.name} took {duration(one.value or 0)}, more than {duration(one.ceiling or 0)}" for one in slow]
    outcome = CheckResult(
        "warn", f"start of the service: {first_few(details, MOST)}", tuple(slow), None, rule["remedy"]
    )
    return (CheckRecord.model_validate(as_record(STARTS, None, None, outcome, 0.0)),)


def _class_of(host: HostSummary) -> tuple[object, ...]:
    stack, installed = host.stack and host.stack.model_dump_json(), host.phases.get("install")
    return host.devices, stack, host.serve and host.serve.model, bool(installed and installed.changed)


def _slow(group: dict[str, dict[str, float]]) -> Iterator[Figure]:
    """Yield the phases that took too long, by the lengths of phases on equal hosts."""
    rule = own_table(TABLE)["rule"]
    phases = dict.fromkeys(phase for lengths in group.values() for phase in lengths if phase not in rule["left_out"])
    for phase in phases:
        known = {name: lengths[phase] for name, lengths in group.items() if phase in lengths}
        middle = median(known.values())
        most = max(rule["share"] * middle, middle + rule["least_s"])
        if len(known) >= rule["hosts"]:
            source = (
                f"{rule['share']:g} times the median of {len(known)} equal hosts, {duration(middle)}; {rule['source']}"
            )
            for name, seconds in known.items():
                if seconds > most:
                    yield Figure(f"{start_phase_words(phase)} on {name}", seconds, "s", ceiling=most, source=source)
