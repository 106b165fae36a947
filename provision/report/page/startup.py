"""How long each service took to start, phase by phase."""

from __future__ import annotations

from collections.abc import Iterable

from provision.core.models.records import HostSummary
from provision.report import service_start as phases_of
from provision.report.layout import duration
from provision.report.page.plot import Chart, stacked

MOST_DRAWN = 16
"""Hosts drawn, the slowest ones; the table has all."""
COLOURS = 6
"""Colours of the page; the shortest phases share the last one."""


def startup(hosts: Iterable[HostSummary]) -> Chart | None:
    """Draw start times of all verified services, the slowest at the top; None without any."""
    points = {host.name: phases_of.points(host.serve.startup_s) for host in hosts if host.serve}
    points = {name: each for name, each in points.items() if each}
    if not points:
        return None
    order = sorted(points, key=lambda name: -max(points[name].values()))
    phases = tuple(dict.fromkeys(phase for name in order for phase in points[name]))
    drawn = order[:MOST_DRAWN]
    lengths = [phases_of.lengths(points[name]) for name in drawn]
    series = {phases_of.words(phase): [each.get(phase, 0.0) for each in lengths] for phase in phases}
    if len(series) > COLOURS:
        kept = sorted(series, key=lambda name: -sum(series[name]))[: COLOURS - 1]
        rest = [values for name, values in series.items() if name not in kept]
        series = {name: values for name, values in series.items() if name in kept}
        series["other"] = [sum(values) for values in zip(*rest, strict=True)]
    left_out = f" The slowest {len(drawn)} of {len(order)} hosts are drawn." if len(drawn) < len(order) else ""
    return Chart(
        id="startup",
        title="Start of the service",
        note=f"From the start of its process, phase by phase.{left_out}",
        form="bars",
        drawing=stacked(drawn, series, x_title="seconds"),
        legend=tuple(series),
        headers=("host", *(f"{phases_of.words(phase)} after" for phase in phases)),
        rows=tuple(
            (name, *(duration(points[name][phase]) if phase in points[name] else "" for phase in phases))
            for name in order
        ),
    )
