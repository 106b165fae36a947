"""Charts of series that checks measured: which checks, in which order, and the numbers beside the chart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from provision.core.models.records import HostSummary, Summary
from provision.report.page.charts import Chart, Rule, rules, series_charts
from provision.report.page.hosts import classes
from tests.report.sample import GPU_STACK, STARTED, check

PEAKS = Rule(
    id="peaks",
    title="Peaks",
    note="Less is better.",
    check="memory.attention",
    evidence="peaks",
    unit="B",
    place="length",
    x_title="length in tokens",
    y_title="memory in bytes",
)


def measured(name: str, found: Any, *, rule: Rule = PEAKS) -> HostSummary:
    record = check(rule.check, device="cuda:0", evidence={rule.evidence: found})
    return HostSummary.model_validate({"name": name, "state": "serving", "changed": True, "checks": [record]})


def drawn(*hosts: HostSummary, rule: Rule = PEAKS) -> list[Chart]:
    summary = Summary(
        run="r", command="provision", started_at=STARTED, verdict="green", changed=1, seconds=1.0, hosts=hosts
    )
    return list(series_charts(classes(summary), [rule]))


def test_points_are_in_the_order_of_their_numbers() -> None:
    (chart,) = drawn(measured("a", {"flash": {"16384": 5e9, "512": 2e3, "2048": 4e6}}))
    assert chart.headers == ("length", "flash")
    assert chart.rows == (("512", "2 kB"), ("2048", "4 MB"), ("16384", "5 GB"))
    (series,) = chart.drawing.series
    heights = [y for _, y in series.dots]
    assert heights == sorted(heights, reverse=True)
    assert re.fullmatch(r"M[\d.]+ [\d.]+(L[\d.]+ [\d.]+){2}", series.line)


def test_series_keep_their_order_and_a_missing_place_is_a_gap() -> None:
    (chart,) = drawn(measured("a", {"standard": {"512": 9e3}, "flash": {"512": 1e3, "2048": 4e3}}))
    assert chart.legend == ("standard", "flash")
    assert chart.rows == (("512", "9 kB", "1 kB"), ("2048", "", "4 kB"))
    assert [len(series.dots) for series in chart.drawing.series] == [1, 2]
    (gap,) = drawn(measured("a", {"flash": {"1": 1.0, "3": 3.0}, "standard": {"2": 2.0}}))
    assert [series.line.count("M") for series in gap.drawing.series] == [2, 1], "no line over a gap"


def test_of_several_readings_the_median_is_drawn_and_the_range_is_shown() -> None:
    hosts = [measured(name, {"flash": {"512": value}}) for name, value in (("a", 1e3), ("b", 3e3), ("c", 2.2e3))]
    (chart,) = drawn(*hosts)
    assert chart.rows == (("512", "2.2 kB (1 kB to 3 kB)"),)
    assert chart.note == "Less is better. Medians of up to 3 readings."


def test_every_class_has_its_own_drawing() -> None:
    one = measured("a", {"flash": {"512": 100.0}})
    other = measured("b", {"flash": {"512": 300.0}}).model_copy(update={"stack": GPU_STACK})
    silent = measured("c", {}).model_copy(update={"devices": ("8 x L4",)})
    assert [(chart.id, chart.rows) for chart in drawn(one, other, silent)] == [
        ("peaks-1", (("512", "300 B"),)),
        ("peaks-2", (("512", "100 B"),)),
    ]
    assert "Group 2: a." in drawn(one, other)[1].note
    assert "Group" not in drawn(one, silent)[0].note


STRANGE: tuple[Any, ...] = (
    None,
    "text",
    7,
    [],
    {},
    {"flash": None},
    {"flash": {"512": None}},
    {"flash": {"512": "fast"}},
    {"flash": {"512": float("nan")}},
    {"flash": {"512": 0}},
    [{"flash": 1.0}],
    [{"point": [1], "flash": None}],
    ["row"],
)


@pytest.mark.parametrize("found", STRANGE)
def test_evidence_of_another_form_is_not_drawn(found: Any) -> None:
    assert drawn(measured("a", found)) == []


@pytest.mark.parametrize("evidence", [None, "text", {"other": {"flash": {"512": 1.0}}}])
def test_other_evidence_is_not_drawn(evidence: Any) -> None:
    host = measured("a", {})
    bare = host.model_copy(update={"checks": (host.checks[0].model_copy(update={"evidence": evidence}),)})
    assert drawn(bare) == []


@pytest.mark.parametrize(("value", "words"), [(999.0, "999 B"), (2048.0, "2.048 kB"), (3.5e6, "3.5 MB")])
def test_bytes_are_shown_in_powers_of_ten(value: float, words: str) -> None:
    assert drawn(measured("a", {"flash": {"1": value}}))[0].rows == (("1", words),)


@pytest.mark.parametrize("values", [{"1": 5.0}, {"1": 1.0, "2": 1.0}, {"1": 1e-9, "2": 1e12}, {"1": 0.7, "2": 1.3}])
def test_any_range_has_a_readable_axis(values: Mapping[str, float]) -> None:
    (chart,) = drawn(measured("a", {"flash": values}))
    assert 2 <= len(chart.drawing.y_marks) <= 8
    heights = [y for y, _ in chart.drawing.y_marks]
    assert all(min(heights) <= y <= max(heights) for series in chart.drawing.series for _, y in series.dots)
    assert (chart.drawing.x_title, chart.drawing.y_title) == ("length in tokens", "memory in bytes, log scale")


def test_the_table_of_charts_is_valid() -> None:
    assert rules()
    assert len({rule.id for rule in rules()}) == len(rules())
