"""Metrics of this host for Prometheus: health of its cards, its release, its last verification. Rendering is pure."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from verify.checks.installed import files
from verify.files import printed, read_json
from verify.host.views import amd_smi, kernel_log, pci
from verify.host.views.nvml import Health, NvmlError, read_health
from verify.host.xid import events, meaning_of
from verify.runner.last_run import read_last_run, started_at
from verify.tables import table

PASSED = ("ok", "warn")
"""States of a verification in which no check failed."""
SYSTEMCTL_S = 10.0


@dataclass(frozen=True)
class Family:
    """A metric of data/metrics.toml with its values: labels and number of each."""

    name: str
    values: Sequence[tuple[Mapping[str, str], float]]
    vendor: str = ""
    """Whose meaning it has, where that of one vendor differs."""


def render(families: Iterable[Family]) -> str:
    """Return Prometheus' text format; a metric without values is left out."""
    lines: list[str] = []
    for family in families:
        if family.values:
            row = table("metrics")[family.name]
            help_ = row.get(f"help_{family.vendor}", row["help"])
            lines += [f"# HELP {family.name} {help_}", f"# TYPE {family.name} {row['kind']}"]
            lines += [f"{family.name}{_labels(labels)} {value!r}" for labels, value in family.values]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Mapping[str, str]) -> str:
    def quoted(text: str) -> str:
        return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')

    return "{" + ",".join(f'{name}="{quoted(text)}"' for name, text in labels.items()) + "}" if labels else ""


def read_families(prefix: Path) -> list[Family]:
    """Read all metrics of this host, without cards where it serves by CPUs, and of the installation at a prefix or all its services."""
    values: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    builds = set()
    for service, one in _services(prefix):
        builds.add(_part(read_json(one / "current" / "stack.json"), "torch").get("variant"))
        for family in (*_read_release(one), *_read_verification(one), *_read_service(one)):
            values.setdefault(family.name, []).extend(({**labels, **service}, value) for labels, value in family.values)
    return [*(_read_cards() if builds != {"cpu"} else ()), *(Family(name, found) for name, found in values.items())]


def _services(prefix: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """Yield the label and the prefix of each service; a prefix without `@NAME` is that of the only one, which has no label."""
    stem, named, _ = prefix.name.partition("@")
    for one in sorted(prefix.parent.glob(f"{escape(stem)}@*")) if named else (prefix,):
        yield {"service": one.name.removeprefix(f"{stem}@")} if named else {}, one


def _read_cards() -> Iterator[Family]:
    """Yield the metrics of cards; of a host without cards there are none."""
    on_bus = {vendor: len(pci.gpus(vendor, integrated=vendor == "amd")) for vendor in ("nvidia", "amd")}
    on_bus = {vendor: count for vendor, count in on_bus.items() if count}
    answering: dict[str, int] = {}
    if "nvidia" in on_bus:
        try:
            cards = read_health()
        except NvmlError:  # one card that is lost takes the answers of all
            cards = ()
        answering["nvidia"] = len(cards)
        yield from nvidia_families(cards)
        if logged := kernel_log.lines():
            yield xid_family(logged, without=pci.graphics())
    if "amd" in on_bus:
        try:
            both = amd_smi.ERRORS_AND_METRICS.ask()
        except amd_smi.AmdSmiError:
            both = ()
        if both is not None:  # without amd-smi nobody was asked, as where they are a processor's graphics
            answering["amd"] = len(both)
            yield from amd_families([errors for errors, _ in both], [metrics for _, metrics in both])
    yield from count_families(on_bus, answering)


def count_families(on_bus: Mapping[str, int], answering: Mapping[str, int]) -> Iterator[Family]:
    """Yield how many cards are on the PCI bus, and how many their driver reports, by vendor."""
    for name, counts in (("firstlight_cards_on_bus", on_bus), ("firstlight_cards", answering)):
        yield Family(name, [({"vendor": vendor}, count) for vendor, count in counts.items()])


def _gauges(cards: Mapping[str, Any]) -> Iterator[Family]:
    """Yield the metrics that are fields of cards, given by name; what a card does not have or report is left out."""
    for name, row in table("metrics").items():
        if "field" in row:
            found = [({"card": card}, getattr(fields, row["field"], None)) for card, fields in cards.items()]
            yield Family(name, [(labels, float(value)) for labels, value in found if value is not None])


def nvidia_families(cards: Sequence[Health]) -> Iterator[Family]:
    """Yield the metrics of NVIDIA cards; what a card does not report is left out."""
    yield Family("firstlight_card_info", [({"card": card.pci, "name": card.name}, 1) for card in cards])
    yield from _gauges({card.pci: card for card in cards})
    slowed = [
        ({"card": card.pci, "reason": row["name"], "status": row["status"]}, int(bool(card.clock_reasons & row["bit"])))
        for card in cards
        if card.clock_reasons is not None
        for row in table("devices")["clock_reason"]
    ]
    yield Family("firstlight_card_slowed", slowed)
    errors = [({"card": card.pci}, card.uncorrected[1]) for card in cards if card.uncorrected]
    yield Family("firstlight_card_ecc_uncorrected_errors_total", errors)
    remapped = [
        ({"card": card.pci, "errors": kind}, count)
        for card in cards
        for kind, count in zip(("corrected", "uncorrected"), card.remapped or (), strict=False)
    ]
    yield Family("firstlight_card_remapped_rows_total", remapped)
    links = [({"card": card.pci}, sum(card.links)) for card in cards if card.links and not card.is_split]
    yield Family("firstlight_card_links_up", links)
    broken = [({"card": card.pci, "kind": kind}, count) for card in cards for kind, count in card.link_errors.items()]
    yield Family("firstlight_card_link_errors_total", broken)
    completed = table("devices")["fabric_state"]["completed"]
    # A single card needs no fabric: virtual machines with one card never complete it.
    registered = [
        ({"card": card.pci}, int(card.fabric.state == completed and card.fabric.status == 0))
        for card in cards
        if card.fabric and card.fabric.state and (len(cards) > 1 or card.fabric.state == completed)
    ]
    yield Family("firstlight_card_fabric_registered", registered)


def amd_families(errors: Sequence[amd_smi.EccErrors], metrics: Sequence[Health]) -> Iterator[Family]:
    """Yield the metrics of AMD cards, which amd-smi numbers; what a card does not report is left out."""
    yield from _gauges({row.pci: row for row in metrics})
    # A scrape meets cards under load, too.
    rows = [row for row in table("devices")["amd_limit"] if row.get("under_load", True)]
    status = {row["reason"]: row["status"] for row in rows}
    slowed = [
        ({"card": row.pci, "reason": reason, "status": status.get(reason, "ok")}, int(active))
        for row in metrics
        for reason, active in (row.throttling or {}).items()
    ]
    yield Family("firstlight_card_slowed", slowed)
    counted = [({"card": str(row.gpu)}, row.uncorrected) for row in errors if row.uncorrected is not None]
    yield Family("firstlight_card_ecc_uncorrected_errors_total", counted, vendor="amd")


def xid_family(lines: Iterable[kernel_log.Line], *, without: Collection[str | None] = ()) -> Family:
    """Return how often each event of a card or switch is in the kernel log, leaving out those of the addresses in `without`."""
    found = events(lines, without=without)
    counted = Counter((event.what, event.pci, str(event.number), meaning_of(event).kind) for event in found)
    values = [
        ({"event": what, "card": card, "number": number, "kind": kind}, count)
        for (what, card, number, kind), count in sorted(counted.items())
    ]
    return Family("firstlight_xid_events_total", values)


def _read_release(prefix: Path) -> Iterator[Family]:
    """Yield the release that is live, with the attention back end that the last proof found in use."""
    try:
        release = (prefix / "current").readlink().parts[-2]
    except (OSError, IndexError):
        return
    ready = read_json(prefix / "verify" / "ready.json")
    state = read_json(prefix / "state.json")
    attention = _part(_part(ready, "record"), "attention").get("used") if ready.get("release") == release else None
    labels = {
        "release": release,
        "model": str(_part(state, "readiness").get("served_name") or ""),
        "attention": str(attention or ""),
    }
    yield Family("firstlight_release_info", [(labels, 1)])


def _read_verification(prefix: Path) -> Iterator[Family]:
    """Yield when the last verification in which no check failed began, and how the last one ended."""
    last = read_last_run(prefix)
    if not last:
        return
    runs = [run for run in _part(last, "runs").values() if isinstance(run, dict)] or [last]
    begun = [started_at(run) for run in runs if run.get("status") in PASSED]
    yield Family("firstlight_verify_last_passed_timestamp_seconds", [({}, max(begun, default=0.0))])
    yield Family("firstlight_verify_status", [({"status": str(last.get("status"))}, 1)])
    records = [record for record in last.get("checks") or () if record.get("id") == files.ID]
    figures = {figure["name"]: figure["value"] for record in records for figure in record.get("figures") or ()}
    labels = {"critical": files.CRITICAL, "other": files.OTHER}
    values = [({"severity": label}, figures[name]) for label, name in labels.items() if name in figures]
    yield Family("firstlight_advisories_open", values)


def _read_service(prefix: Path) -> Iterator[Family]:
    """Yield whether the service of this installation runs, how often systemd started it again by itself, and what its watchdog did.

    vLLM's own metrics do not count the streams that it ended with an error. Of a watchdog that is not there, or had nothing to do, there
    are zeros.
    """
    unit = str(_part(read_json(prefix / "state.json"), "readiness").get("unit") or "")
    words = ["systemctl", "show", "--property=NRestarts,ActiveState", unit]
    shown = printed(words, limit_s=SYSTEMCTL_S) if unit.endswith(".service") else None
    if shown is None:
        return
    known = table("serving")["stream_error"]
    words = ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--since=-{known['minutes']}min", f"--unit={unit}"]
    if (logged := printed(words, limit_s=SYSTEMCTL_S)) is not None:
        yield Family("firstlight_stream_errors", [({}, len(re.findall(known["logged"], logged)))])
    said = dict(line.partition("=")[::2] for line in shown.splitlines())
    is_active = said.get("ActiveState") == "active"
    yield Family("firstlight_service_active", [({}, int(is_active))])
    noted = read_json(prefix / "health-agent" / "watchdog.json")
    last = [event.get("action") for event in (noted.get("events") or ())[-1:]]
    yield Family("firstlight_watchdog_restarts_total", [({}, int(noted.get("restarts") or 0))])
    yield Family("firstlight_watchdog_left_down", [({}, int(last == ["left down"] and not is_active))])
    if said.get("NRestarts", "").isdigit():
        yield Family("firstlight_service_restarts_total", [({}, int(said["NRestarts"]))])


def _part(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    return value if isinstance(value, dict) else {}
