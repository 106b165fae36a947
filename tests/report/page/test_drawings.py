"""The page's drawings without a browser: figures, dot plots, charts, times."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.records import HostSummary, ServeRecord
from provision.core.run_folder import RunFolder
from provision.report import page
from provision.report.page.charts import MOST_DRAWN, startup
from provision.report.page.figures import figure_rows
from provision.report.page.hosts import Clock, host_spans, read_clock
from provision.report.page.view import Page
from tests.report.page import fleets
from tests.report.sample import CPU_STACK, Folder, check, host, result


def test_figures_name_the_odd_reading(content: Page) -> None:
    (_, (wrong, slow)), (_, within), _ = content.figure_tables
    assert (wrong.name, wrong.beyond, wrong.high.where, wrong.high.value) == (
        "error, bfloat16",
        1,
        "gpu-058 cuda:2",
        3.27,
    )
    assert (slow.name, slow.beyond, slow.low.where, slow.low.value) == ("bfloat16 products", 1, "gpu-071 cuda:2", 402.0)
    assert slow.readings == 760
    assert [row.name for row in within] == ["lanes", "speed", "memory, read and written"], (
        "no row for each GPU of a host"
    )


def test_counts_are_not_drawn_and_figures_without_a_floor_come_last() -> None:
    figures = [
        {"name": "speed", "value": 3.0, "unit": "ms"},
        {"name": "files", "value": 7.0, "unit": "count"},
        {"name": "wrong", "value": 0.0, "unit": "count", "ceiling": 0.0},
        {"name": "lost", "value": None, "unit": "ms", "floor": 1.0},
    ]
    record = check("a.b", figures=figures)
    one = HostSummary.model_validate({"name": "h", "state": "serving", "changed": False, "checks": [record]})
    assert [(row.name, row.bound) for row in figure_rows([(1, one)])] == [("wrong", "at most 0"), ("speed", "")]


def test_one_reading_for_each_device_is_shown_once(tmp_path: Path, large: RunFolder) -> None:
    folder = Folder(tmp_path / fleets.RUN, [host("a", local=True)])
    folder.planned(["a"], CPU_STACK)
    folder.green("a")
    assert ">reading</th>" in page.render(folder.run)
    assert ">reading</th>" not in page.render(large)


def test_phases_are_drawn_at_their_times(content: Page) -> None:
    install = next(span for span in content.hosts[0].spans if span.phase == "install")
    assert install.left + install.width == pytest.approx((60.2 - 0.1) / 94.2 * 100, abs=0.1)


def test_malformed_times_are_ignored_and_late_results_make_the_run_longer() -> None:
    def event(at: str, phase: str) -> dict[str, Any]:
        return {"at": at, "kind": "result", "host": "h", "phase": phase}

    events = [
        event("2026-11-20T10:15:30.000Z", "install"),
        event("soon", "plan"),
        event("2026-11-20T10:15:12Z", "kitchen"),
    ]
    clock = read_clock([*events, {"kind": "result"}], started_at="2026-11-20T10:15:00.000Z", seconds=20.0)
    assert (clock.seconds, dict(clock.results)) == (30.0, {("h", "install"): 30.0})


def test_a_skipped_phase_and_one_without_a_time_have_no_span() -> None:
    clock = Clock(20.0, {("h", "probe"): 5.0, ("h", "stage"): 9.0})
    spans = host_spans(clock, [result("h", "probe"), result("h", "stage", "skipped"), result("h", "serve")])
    assert [span.phase for span in spans] == ["probe"]


def test_phases_are_recorded_as_points_and_drawn_as_lengths() -> None:
    def serving(name: str, **phases: float) -> HostSummary:
        record = ServeRecord(startup_s=phases)
        return HostSummary(name=name, state="serving", changed=True, serve=record)

    quick = serving("quick", health=10.0, first_token=11.0, first_answer=0.4)
    chart = startup([quick, serving("slow", health=50.0, first_token=52.0), serving("silent")])
    assert chart
    assert (chart.headers, chart.legend) == (("host", "health after", "first token after"), ("health", "first token"))
    assert chart.rows == (("slow", "50 s", "52 s"), ("quick", "10 s", "11 s"))
    health, token = (series.bars for series in chart.drawing.series)
    assert health[0][2] == pytest.approx(5 * health[1][2], rel=0.01)  # 50 s beside 10 s
    assert token[0][0] == pytest.approx(health[0][0] + health[0][2], abs=0.1), "one part follows the other"
    assert chart.drawing.x_title == "seconds"
    assert startup([serving("silent")]) is None


def test_only_the_slowest_of_many_are_drawn_and_all_are_listed(content: Page) -> None:
    chart = content.startup
    assert chart
    assert len(chart.rows) == 97
    assert f"slowest {MOST_DRAWN} of 97" in chart.note
    assert len(chart.drawing.y_marks) == MOST_DRAWN


def test_the_shortest_phases_share_the_last_colour() -> None:
    ends = {
        "imports": 24.5,
        "engine": 34.5,
        "weights": 37.5,
        "compile": 51.5,
        "graphs": 55.5,
        "warm": 71.5,
        "health": 72.8,
        "first_token": 72.9,
        "proven": 73.0,
    }
    record = ServeRecord(startup_s=ends)
    chart = startup([HostSummary(name="a", state="serving", changed=True, serve=record)])
    assert chart
    assert chart.legend == ("imports", "engine", "compile", "graphs", "warm", "other")
    css = (Path(page.__file__).parent / "templates" / "page.css").read_text()
    assert len(chart.legend) == len(set(re.findall(r"\.color-(\d) \{", css)))
    assert sum(series.bars[0][2] for series in chart.drawing.series) == pytest.approx(
        chart.drawing.RIGHT - chart.drawing.left, abs=0.5
    )


def test_attention_is_drawn_from_the_evidence_of_its_checks(content: Page) -> None:
    forward, memory = content.charts
    assert forward.headers == ("length", "flash, ms", "standard, ms")
    assert [row[0] for row in forward.rows] == ["128", "256", "512", "1024", "2048", "4096", "8192", "16384"]
    assert memory.rows[0] == ("128", "70.66 kB", "262.1 kB")
    assert memory.rows[-1] == ("16384", "8.524 MB", "")


def test_every_chart_has_its_numbers(large: RunFolder) -> None:
    text = page.render(large)
    figures = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    assert figures
    assert all("<tbody>" in figure and 'class="plot"' in figure for figure in figures)
