"""Tables of series that checks measured: which checks, in which order, and their numbers."""

from __future__ import annotations

from typing import Any

import pytest

from provision.core.models.records import HostSummary, Summary
from provision.report.page.hosts import classes
from provision.report.page.series import Rule, Table, rules, series_tables
from tests.report.sample import GPU_STACK, STARTED, check

PEAKS = Rule(
    title="Peaks",
    note="Less is better.",
    check="memory.attention",
    evidence="peaks",
    unit="B",
    place="length",
)


def measured(name: str, found: Any, *, rule: Rule = PEAKS) -> HostSummary:
    record = check(rule.check, device="cuda:0", evidence={rule.evidence: found})
    return HostSummary.model_validate({"name": name, "state": "serving", "changed": True, "checks": [record]})


def tables(*hosts: HostSummary, rule: Rule = PEAKS) -> list[Table]:
    summary = Summary(
        run="r", command="provision", started_at=STARTED, verdict="green", changed=1, seconds=1.0, hosts=hosts
    )
    return list(series_tables(classes(summary), [rule]))


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
    [{"flash": 1.0}],
    [{"point": [1], "flash": None}],
    ["row"],
)


@pytest.mark.parametrize("found", STRANGE)
def test_evidence_of_another_form_is_not_shown(found: Any) -> None:
    assert tables(measured("a", found)) == []


@pytest.mark.parametrize("evidence", [None, "text", {"other": {"flash": {"512": 1.0}}}])
def test_other_evidence_is_not_shown(evidence: Any) -> None:
    host = measured("a", {})
    bare = host.model_copy(update={"checks": (host.checks[0].model_copy(update={"evidence": evidence}),)})
    assert tables(bare) == []


@pytest.mark.parametrize(("value", "words"), [(999.0, "999 B"), (2048.0, "2.048 kB"), (3.5e6, "3.5 MB")])
def test_bytes_are_shown_in_powers_of_ten(value: float, words: str) -> None:
    assert tables(measured("a", {"flash": {"1": value}}))[0].rows == (("1", words),)


def test_the_table_of_series_is_valid() -> None:
    assert rules()
