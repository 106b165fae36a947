"""The Grafana dashboard `host`."""

from __future__ import annotations

from docs.grafana import render

TARGET = "docs/dashboards/host.json"


def generate() -> str:
    """Return the dashboard."""
    return render("host")
