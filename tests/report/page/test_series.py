"""Tables of series that checks measured: which checks, in which order, and their numbers."""

from typing import Any

import pytest

from provision.core.models.records import HostSummary
from provision.report.page.hosts import classes
from provision.report.page.series import Rule, Table, series_tables
from tests.report.sample import GPU_STACK, check, summary_of

PEAKS = Rule(
    title="Peaks",
    note="Less is better.",
    check="memory.attention",
    evidence="peaks",
    unit="B",
    place="length",
)


def with_evidence(name: str, evidence: Any) -> HostSummary:
    record = check(PEAKS.check, device="cuda:0", evidence=evidence)
    return HostSummary.model_validate({"name": name, "state": "serving", "changed": True, "checks": [record]})


def measured(name: str, found: Any) -> HostSummary:
    return with_evidence(name, {PEAKS.evidence: found})


def tables(*hosts: HostSummary, rule: Rule = PEAKS) -> list[Table]:
    return list(series_tables(classes(summary_of(*hosts)), [rule]))


def test_places_are_in_the_order_of_their_numbers() -> None:
    (shown,) = tables(measured("a", {"flash": {"16384": 5e9, "512": 2e3, "2048": 4e6}}))
    assert shown.headers == ("length", "flash")
    assert shown.rows == (("512", "2 kB"), ("2048", "4 MB"), ("16384", "5 GB"))


def test_series_keep_their_order_and_a_missing_place_is_empty() -> None:
    (shown,) = tables(measured("a", {"standard": {"512": 9e3}, "flash": {"512": 1e3, "2048": 4e3}}))
    assert shown.rows == (("512", "9 kB", "1 kB"), ("2048", "", "4 kB"))


def test_of_several_readings_the_median_and_the_range_are_shown() -> None:
    hosts = [measured(name, {"flash": {"512": value}}) for name, value in (("a", 1e3), ("b", 3e3), ("c", 2.2e3))]
    (shown,) = tables(*hosts)
    assert shown.rows == (("512", "2.2 kB (1 kB to 3 kB)"),)
    assert shown.note == "Less is better. Medians of up to 3 readings."


def test_every_class_has_its_own_table() -> None:
    one = measured("a", {"flash": {"512": 100.0}})
    other = measured("b", {"flash": {"512": 300.0}}).model_copy(update={"stack": GPU_STACK})
    silent = measured("c", {}).model_copy(update={"devices": ("8 x L4",)})
    assert [shown.rows for shown in tables(one, other, silent)] == [(("512", "300 B"),), (("512", "100 B"),)]
    assert "Group 2: a." in tables(one, other)[1].note
    assert "Group" not in tables(one, silent)[0].note


@pytest.mark.parametrize(
    "evidence",
    [
        None,
        "text",
        {"other": {"flash": {"512": 1.0}}},
        {"peaks": "text"},
        {"peaks": [{"flash": 1.0}]},
        {"peaks": {}},
        {"peaks": {"flash": None}},
        {"peaks": {"flash": {"512": "fast"}}},
        {"peaks": {"flash": {"512": float("nan")}}},
    ],
)
def test_evidence_of_another_form_is_not_shown(evidence: Any) -> None:
    assert tables(with_evidence("a", evidence)) == []


@pytest.mark.parametrize(("value", "words"), [(999.0, "999 B"), (2048.0, "2.048 kB"), (3.5e6, "3.5 MB")])
def test_bytes_are_shown_in_powers_of_ten(value: float, words: str) -> None:
    assert tables(measured("a", {"flash": {"1": value}}))[0].rows == (("1", words),)
