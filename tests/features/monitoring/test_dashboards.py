"""Every panel of the Grafana dashboards has an answer in a real Prometheus that was fed with metrics."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.grafana import COLUMNS, described, render
from tests.features.monitoring.programs import program
from tests.features.monitoring.running import Prometheus, prometheus

pytestmark = pytest.mark.slow
RECORDED = Path(__file__).with_name("recorded.txt")
"""Series in the form of their exporters with values of our own: value, and growth every ten seconds."""
BEGUN = int(time.time()) - 7200
STEPS, STEP_S = 60, 10
END = BEGUN + (STEPS - 1) * STEP_S
PANELS = [(name, panel["title"]) for name in described() for panel in json.loads(render(name))["panels"]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has the recorded series of ten minutes."""
    folder = tmp_path_factory.mktemp("recorded")
    lines = []
    for row in RECORDED.read_text().splitlines():
        series, value, growth = row.rsplit(" ", 2)
        values = (float(value) + step * float(growth) for step in range(STEPS))
        lines += [f"{series} {value} {BEGUN + step * STEP_S}\n" for step, value in enumerate(values)]
    (folder / "metrics.txt").write_text("".join(lines) + "# EOF\n")
    words = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", "metrics.txt", "data"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with prometheus(folder, {"prometheus.yml": "global: {}\n"}) as started:
        yield started


def query_of(dashboard: dict[str, Any], title: str) -> str:
    """Return the query of a panel as Grafana sends it, with all values chosen."""
    [panel] = [panel for panel in dashboard["panels"] if panel["title"] == title]
    [target] = panel["targets"]
    return re.sub(r"\$(host|model)\b", ".*", target["expr"].replace("$__rate_interval", "1m"))


@pytest.mark.parametrize(("name", "title"), PANELS)
def test_a_panel_is_not_empty(name: str, title: str, server: Prometheus) -> None:
    query = query_of(json.loads(render(name)), title)
    assert "$" not in query
    found = server.query(query, time=str(END))
    assert found, query
    assert all(one["value"][1] != "NaN" for one in found), query


def test_answers_that_failed_count_as_those_that_broke_do(server: Prometheus) -> None:
    query = query_of(json.loads(render("fleet")), "Answers that broke or failed, share")
    found = {one["metric"]["server"]: float(one["value"][1]) for one in server.query(query, time=str(END))}
    assert found == pytest.approx({"a": 0.1 / 31, "b": 1 / 30})


@pytest.mark.parametrize("name", described())
def test_a_dashboard_can_be_imported_and_its_panels_do_not_overlap(name: str) -> None:
    dashboard = json.loads(render(name))
    assert dashboard["uid"] == f"firstlight-{name}"
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert all(x + width <= COLUMNS for x, _, width, _ in places)
    chosen = {f"${variable['name']}" for variable in dashboard["templating"]["list"]} - {"$source"}
    used = set(re.findall(r"\$(?:host|model)\b", json.dumps(dashboard["panels"])))
    assert used == chosen
