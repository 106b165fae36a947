"""Metrics of this host for Prometheus: health of its cards, its release, its last verification. Rendering is pure."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from verify.checks.devices.xid import events, meaning
from verify.checks.installed import advisories
from verify.files import read_json
from verify.host.views import amd_smi, kernel_log, pci
from verify.host.views.nvml import NvmlError
from verify.host.views.nvml_health import Health, read_health
from verify.runner.last_run import read_last_run
from verify.tables import table

PASSED = ("ok", "warn")
"""States of a verification in which no check failed."""
SYSTEMCTL_S = 10.0

Kind = Literal["gauge", "counter"]


@dataclass(frozen=True)
class Family:
    """A metric with its values: labels and number of each."""

    name: str
    kind: Kind
    description: str
    values: Sequence[tuple[Mapping[str, str], float]]


def render(families: Iterable[Family]) -> str:
    """Return Prometheus' text format; a metric without values is left out."""
    lines: list[str] = []
    for family in families:
        if family.values:
            lines += [f"# HELP {family.name} {family.description}", f"# TYPE {family.name} {family.kind}"]
            lines += [f"{family.name}{_labels(labels)} {value!r}" for labels, value in family.values]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Mapping[str, str]) -> str:
    def quoted(text: str) -> str:
        return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')

    return "{" + ",".join(f'{name}="{quoted(text)}"' for name, text in labels.items()) + "}" if labels else ""


def read_families(prefix: Path) -> list[Family]:
    """Read all metrics of this host.

    Args:
        prefix: The installation.
    """
    return [*_read_cards(), *_read_log(), *_read_release(prefix), *_read_verification(prefix), *_read_service(prefix)]


def _read_cards() -> Iterator[Family]:
    """Yield the metrics of cards; of a host without cards there are none."""
    on_bus = {vendor: len(pci.gpus(vendor)) for vendor in ("nvidia", "amd")}
    on_bus = {vendor: count for vendor, count in on_bus.items() if count}
    answering: dict[str, int] = {}
    if "nvidia" in on_bus:
        try:
            cards = read_health()
        except NvmlError:  # one card that is lost takes the answers of all
            cards = ()
        answering["nvidia"] = len(cards)
        yield from nvidia_families(cards)
    if "amd" in on_bus:
        try:
            errors, metrics = amd_smi.errors() or (), amd_smi.metrics() or ()
        except amd_smi.AmdSmiError:
            errors, metrics = (), ()
        answering["amd"] = len(metrics)
        yield from amd_families(errors, metrics)
    yield from count_families(on_bus, answering)


def count_families(on_bus: Mapping[str, int], answering: Mapping[str, int]) -> Iterator[Family]:
    """Yield how many cards there are.

    Args:
        on_bus: Cards on the PCI bus by vendor.
        answering: Cards that their driver reports, by vendor.
    """
    for name, counts, description in (
        ("firstlight_cards_on_bus", on_bus, "GPUs on the PCI bus."),
        ("firstlight_cards", answering, "GPUs that their driver reports; 0 where it does not answer."),
    ):
        yield Family(name, "gauge", description, [({"vendor": vendor}, count) for vendor, count in counts.items()])


def nvidia_families(cards: Sequence[Health]) -> Iterator[Family]:
    """Yield the metrics of NVIDIA cards; what a card does not report is left out."""
    one = "firstlight_card"
    figures: tuple[tuple[str, Kind, str, str], ...] = (
        ("temperature_celsius", "gauge", "Temperature of the GPU.", "temperature_c"),
        ("power_watts", "gauge", "Power that the GPU draws.", "power_w"),
        ("power_limit_watts", "gauge", "Power that the GPU may draw.", "power_limit_w"),
        ("row_remap_pending", "gauge", "Whether rows of the memory are replaced at the next reset.", "remap_pending"),
        ("row_remap_failed", "gauge", "Whether a row of the memory could not be replaced.", "remap_failed"),
    )
    yield Family(f"{one}_info", "gauge", "Name of the GPU.", [({"card": c.pci, "name": c.name}, 1) for c in cards])
    for name, kind, description, field in figures:
        found = [({"card": card.pci}, getattr(card, field)) for card in cards]
        values = [(labels, float(value)) for labels, value in found if value is not None]
        yield Family(f"{one}_{name}", kind, description, values)
    yield Family(
        f"{one}_slowed",
        "gauge",
        "Whether a reason limits the clocks now; status: whether that is a fault.",
        [
            (
                {"card": card.pci, "reason": row["name"], "status": row["status"]},
                int(bool(card.clock_reasons & row["bit"])),
            )
            for card in cards
            if card.clock_reasons is not None
            for row in table("devices")["clock_reason"]
        ],
    )
    yield Family(
        f"{one}_ecc_uncorrected_errors_total",
        "counter",
        "Uncorrected errors of the memory since the GPU was made.",
        [({"card": card.pci}, card.uncorrected[1]) for card in cards if card.uncorrected],
    )
    yield Family(
        f"{one}_remapped_rows_total",
        "counter",
        "Rows of the memory that were replaced, by the kind of error before it.",
        [
            ({"card": card.pci, "errors": errors}, count)
            for card in cards
            if card.remapped
            for errors, count in zip(("corrected", "uncorrected"), card.remapped, strict=True)
        ],
    )
    yield Family(
        f"{one}_links_up",
        "gauge",
        "NVLinks that are up.",
        [({"card": card.pci}, sum(card.links)) for card in cards if any(card.links)],
    )
    yield Family(
        f"{one}_link_errors_total",
        "counter",
        "Errors of all NVLinks since the driver was loaded.",
        [({"card": card.pci, "kind": kind}, count) for card in cards for kind, count in card.link_errors.items()],
    )
    states = table("devices")["fabric_state"]
    yield Family(
        f"{one}_fabric_registered",
        "gauge",
        "Whether a GPU of an NVSwitch system is registered with its fabric.",
        [
            ({"card": card.pci}, int(card.fabric.state == states["completed"] and card.fabric.status == 0))
            for card in cards
            if card.fabric and card.fabric.state
        ],
    )


def amd_families(errors: Sequence[amd_smi.EccErrors], metrics: Sequence[amd_smi.Metrics]) -> Iterator[Family]:
    """Yield the metrics of AMD cards, which amd-smi numbers; what a card does not report is left out."""
    one = "firstlight_card"
    for name, description, field in (
        ("temperature_celsius", "Temperature of the GPU.", "temperature_c"),
        ("power_watts", "Power that the GPU draws.", "power_w"),
    ):
        found = [({"card": str(row.gpu)}, getattr(row, field)) for row in metrics]
        values = [(labels, value) for labels, value in found if value is not None]
        yield Family(f"{one}_{name}", "gauge", description, values)
    status = {row["reason"]: row["status"] for row in table("devices")["amd_limit"]}
    yield Family(
        f"{one}_slowed",
        "gauge",
        "Whether a reason limits the clocks now; status: whether that is a fault.",
        [
            ({"card": str(row.gpu), "reason": reason, "status": status.get(reason, "ok")}, int(active))
            for row in metrics
            for reason, active in row.limits.active.items()
        ],
    )
    yield Family(
        f"{one}_ecc_uncorrected_errors_total",
        "counter",
        "Uncorrected errors of memories and caches since the driver was loaded.",
        [({"card": str(row.gpu)}, row.uncorrected) for row in errors if row.uncorrected is not None],
    )


def _read_log() -> Iterator[Family]:
    """Yield the messages of NVIDIA's driver in the kernel log since boot."""
    if not pci.gpus("nvidia"):
        return
    try:
        found, _ = kernel_log.lines()
    except kernel_log.UnreadableError:
        return
    yield xid_family(found)


def xid_family(lines: Iterable[kernel_log.Line]) -> Family:
    """Return how often each event of a card or switch is in the kernel log."""
    counted = Counter((event.what, event.pci, str(event.number), meaning(event)[0]) for event in events(lines))
    return Family(
        "firstlight_xid_events_total",
        "counter",
        "Events of GPUs (Xid) and switches (SXid) since boot; kind: card, process or note.",
        [
            ({"event": what, "card": card, "number": number, "kind": kind}, count)
            for (what, card, number, kind), count in sorted(counted.items())
        ],
    )


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
    yield Family("firstlight_release_info", "gauge", "The release that is live.", [(labels, 1)])


def _read_verification(prefix: Path) -> Iterator[Family]:
    """Yield when the last verification in which no check failed began, and how the last one ended."""
    last = read_last_run(prefix)
    if not last:
        return
    runs = [run for run in _part(last, "runs").values() if isinstance(run, dict)] or [last]
    begun = [_seconds(run.get("started_at")) for run in runs if run.get("status") in PASSED]
    yield Family(
        "firstlight_verify_last_passed_timestamp_seconds",
        "gauge",
        "Start of the newest verification in which no check failed; 0: there is none.",
        [({}, max(begun, default=0.0))],
    )
    yield from _advisories(last)
    status = str(last.get("status"))
    yield Family("firstlight_verify_status", "gauge", "How the last verification ended.", [({"status": status}, 1)])


def _advisories(last: Mapping[str, Any]) -> Iterator[Family]:
    """Yield how many advisories the last verification found open."""
    records = [record for record in last.get("checks") or () if record.get("id") == advisories.ID]
    figures = {figure["name"]: figure["value"] for record in records for figure in record.get("figures") or ()}
    labels = {"critical": advisories.CRITICAL, "other": advisories.OTHER}
    values = [({"severity": label}, figures[name]) for label, name in labels.items() if name in figures]
    text = "Security advisories open in what is installed; critical: of CVSS 9 or more, not accepted."
    yield Family("firstlight_advisories_open", "gauge", text, values)


def _read_service(prefix: Path) -> Iterator[Family]:
    """Yield whether the service of this installation runs, and how often systemd started it again by itself."""
    unit = str(_part(read_json(prefix / "state.json"), "readiness").get("unit") or "")
    if not unit.endswith(".service") or not shutil.which("systemctl"):
        return
    words = ["systemctl", "show", "--property=NRestarts,ActiveState", unit]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=SYSTEMCTL_S)
    except subprocess.TimeoutExpired:
        return
    said = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    yield from _stream_errors(unit)
    active = int(said.get("ActiveState") == "active")
    yield Family("firstlight_service_active", "gauge", "Whether the unit of vLLM is active.", [({}, active)])
    if said.get("NRestarts", "").isdigit():
        restarts = int(said["NRestarts"])
        text = "Starts of the unit of vLLM after a failure, since it was started by hand or by a run."
        yield Family("firstlight_service_restarts_total", "counter", text, [({}, restarts)])


def _stream_errors(unit: str) -> Iterator[Family]:
    """Yield how many streams vLLM ended with an error lately, which its own metrics do not count."""
    known = table("serving")["stream_error"]
    words = ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--since=-{known['minutes']}min", f"--unit={unit}"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False, timeout=SYSTEMCTL_S)
    except (OSError, subprocess.TimeoutExpired):
        return
    ended = len(re.findall(known["logged"], done.stdout))
    text = f"Streams that vLLM ended with an error in the last {known['minutes']} minutes."
    yield Family("firstlight_stream_errors", "gauge", text, [({}, ended)])


def _part(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def _seconds(text: Any) -> float:
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except (ValueError, AttributeError):
        return 0.0
