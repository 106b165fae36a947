"""Grafana dashboards from the descriptions of their panels. Pure: equal tables give equal text."""

import json
from pathlib import Path
from typing import Any

from provision.core.tables import own_table

PANELS = Path(__file__).resolve().parents[1] / "provision/features/monitoring/dashboards.toml"
COLUMNS, WIDTH, HEIGHT = 24, 12, 8
"""Of Grafana's grid; two panels are side by side."""
SCHEMA = 39
"""Version of Grafana's model of dashboards: that of release 10.4, which later releases convert."""
_SOURCE = {"type": "prometheus", "uid": "${source}"}


def described() -> dict[str, dict[str, Any]]:
    """Return the description of each dashboard by its name."""
    return {row["name"]: row for row in own_table(PANELS)["dashboard"]}


def render(name: str) -> str:
    """Return a dashboard as Grafana imports it."""
    row = described()[name]
    dashboard = {
        "uid": f"firstlight-{name}",
        "title": row["title"],
        "tags": ["firstlight"],
        "schemaVersion": SCHEMA,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": _variables(row)},
        "panels": [_panel(number, panel) for number, panel in enumerate(row["panel"])],
    }
    return json.dumps(dashboard, indent=1) + "\n"


def _variables(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is chosen at the top: the Prometheus, and values of one label."""
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    if "by" not in row:
        return [source]
    values = {
        "name": row["by"],
        "label": row["by"],
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": f"label_values({row['of']}, {row['by']})", "refId": "values"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
    return [source, values]


def _panel(number: int, panel: dict[str, Any]) -> dict[str, Any]:
    place = {"x": number * WIDTH % COLUMNS, "y": number * WIDTH // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT}
    return {
        "id": number + 1,
        "type": panel.get("kind", "timeseries"),
        "title": panel["title"],
        "gridPos": place,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": panel["unit"]}, "overrides": []},
        "targets": [{"refId": "A", "datasource": _SOURCE, "expr": panel["query"], "legendFormat": panel["legend"]}],
    }
