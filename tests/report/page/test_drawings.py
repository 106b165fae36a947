"""The page's drawings without a browser: figures, dot plots, charts, times."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.phase_names import PHASES
from provision.core.models.records import HostSummary, ServeRecord
from provision.core.run_folder import RunFolder
from provision.report import page
from provision.report.page.dot_plot import MARGIN, WIDTH, draw_dot_plot
from provision.report.page.figures import figure_rows
from provision.report.page.startup import MOST_DRAWN, startup
from provision.report.page.timeline import Clock, host_spans, read_clock, timeline
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
    assert [words for _, words in slow.dot_plot.marks] == ["gpu-071 cuda:2: 402 TFLOP/s"]
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


@pytest.mark.parametrize(
    ("values", "floor", "ceiling"),
    [([5.0, 7.0], 6.0, None), ([0.0], None, 0.0), ([-3.0, 4.0], -5.0, 5.0), ([], None, None)],
)
def test_a_dot_plot_stays_within_its_box(values: list[float], floor: float | None, ceiling: float | None) -> None:
    drawn = draw_dot_plot(values, floor=floor, ceiling=ceiling, outside=[(value, "x") for value in values[:1]])
    places = [float(x) for x in re.findall(r"M([\d.]+) ", drawn.inside)] + [place for place, _ in drawn.marks]
    bounds = [place for place in (drawn.floor, drawn.ceiling) if place is not None]
    assert all(MARGIN <= place <= WIDTH - MARGIN for place in places + bounds)
    assert len(places) == len(set(values))


def test_a_reading_below_its_floor_is_drawn_left_of_it() -> None:
    drawn = draw_dot_plot([402.0, 690.0], floor=600.0, outside=[(402.0, "slow")])
    assert drawn.floor is not None
    assert drawn.marks[0][0] < drawn.floor < float(re.findall(r"M([\d.]+)", drawn.inside)[0])


def test_phases_are_drawn_at_their_times(content: Page) -> None:
    lanes = {lane.phase: lane for lane in content.timeline.lanes}
    assert list(lanes) == list(PHASES)
    install = lanes["install"].spans[0]
    assert install.left == pytest.approx(21.9 / 94.2 * 100, abs=0.1)
    assert install.left + install.width == pytest.approx(60.2 / 94.2 * 100, abs=0.1)
    assert content.timeline.ticks[1][1] == "15 s"


def test_a_phase_executed_twice_has_one_lane_and_an_instant_has_no_span() -> None:
    def event(at: str, phase: str, seconds: float) -> dict[str, Any]:
        return {"at": f"2026-11-20T10:15:{at}Z", "kind": "phase", "phase": phase, "seconds": seconds}

    events = [event("10.000", "install", 10), event("10.001", "stage", 0.0), event("30.000", "install", 15)]
    strange: list[dict[str, Any]] = [
        {"kind": "phase"},
        {"at": "soon", "kind": "result", "phase": "plan"},
        event("12.000", "kitchen", 2),
    ]
    clock = read_clock([*events, *strange], started_at="2026-11-20T10:15:00.000Z", seconds=20.0)
    lanes = timeline(clock).lanes
    assert clock.seconds == 30.0
    assert [(lane.phase, len(lane.spans), lane.seconds) for lane in lanes] == [
        ("stage", 0, "0.0 s"),
        ("install", 2, "25 s"),
    ]


def test_a_skipped_phase_and_one_without_a_time_have_no_span() -> None:
    clock = Clock(20.0, (), {("h", "probe"): 5.0, ("h", "stage"): 9.0})
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
    speed, memory = content.charts
    assert speed.headers == ("batch, length, heads, head size", "flash, ms", "standard, ms")
    assert [row[0] for row in speed.rows] == [
        "(2, 512, 8, 64)",
        "(2, 512, 12, 64)",
        "(2, 2048, 16, 64)",
        "(32, 512, 12, 64)",
    ]
    assert memory.rows[0] == ("128", "70.66 kB", "262.1 kB")
    assert memory.rows[-1] == ("16384", "8.524 MB", "")


def test_every_chart_has_its_numbers(large: RunFolder) -> None:
    text = page.render(large)
    figures = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    assert figures
    assert all("<tbody>" in figure and 'class="plot"' in figure for figure in figures)
