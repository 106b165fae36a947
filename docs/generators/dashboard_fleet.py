"""The Grafana dashboard `fleet`."""

from __future__ import annotations

from docs.grafana import render

TARGET = "docs/dashboards/fleet.json"


def generate() -> str:
    """Return the dashboard."""
    return render("fleet")
