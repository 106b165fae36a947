"""The Grafana dashboard `rollout`."""

from __future__ import annotations

from docs.grafana import render

TARGET = "docs/dashboards/rollout.json"


def generate() -> str:
    """Return the dashboard."""
    return render("rollout")
