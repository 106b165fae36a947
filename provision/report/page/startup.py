"""How long each service took to its first token, phase by phase."""

from __future__ import annotations

from collections.abc import Iterable

from provision.core.models.records import HostSummary
from provision.report import service_start as phases_of
from provision.report.layout import duration
from provision.report.page.plot import Chart, stacked

MOST_DRAWN = 16
"""Hosts drawn, the slowest ones; the table has all."""


def startup(hosts: Iterable[HostSummary]) -> Chart | None:
    """Draw start times of all proven services, the slowest at the top; None without any."""
    points = {host.name: phases_of.points(host.serve.startup_s) for host in hosts if host.serve}
    points = {name: each for name, each in points.items() if each}
    if not points:
        return None
    order = sorted(points, key=lambda name: -max(points[name].values()))
    phases = tuple(dict.fromkeys(phase for name in order for phase in points[name]))
    lengths = {name: phases_of.lengths(points[name]) for name in order}
    drawn = order[:MOST_DRAWN]
    left_out = f" Drawn are the slowest {len(drawn)} of {len(order)} hosts." if len(drawn) < len(order) else ""
    return Chart(
        id="startup",
        title="Start of the service",
        note=f"Seconds since its process was started last, phase by phase.{left_out}",
        form="bars",
        svg=stacked(drawn, {phase: [lengths[name].get(phase, 0.0) for name in drawn] for phase in phases}),
        legend=tuple(map(phases_of.words, phases)),
        headers=("host", *(f"{phases_of.words(phase)} after" for phase in phases)),
        rows=tuple(
            (name, *(duration(points[name][phase]) if phase in points[name] else "" for phase in phases))
            for name in order
        ),
    )
