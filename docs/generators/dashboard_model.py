"""The Grafana dashboard `model`."""

from __future__ import annotations

from docs.grafana import render

TARGET = "docs/dashboards/model.json"


def generate() -> str:
    """Return the dashboard."""
    return render("model")
