"""Checks of many hosts for a reader: identical results are shown once."""

from __future__ import annotations

from typing import Any

import pytest

from provision.core.models.records import CheckRecord
from provision.pipeline.operations import print_checks
from provision.report.group import merge_equal_records


def check(host: str | None, reason: str = "right", **fields: Any) -> CheckRecord:
    values: dict[str, Any] = {
        "id": "kernels.gemm",
        "family": "kernels",
        "status": "ok",
        "device": "cpu",
        "seconds": 1.0,
    }
    return CheckRecord(**{**values, "host": host, "reason": reason, **fields})


def test_passed_checks_of_many_hosts_are_one_row_with_the_longest_time() -> None:
    [row] = merge_equal_records([check("gpu-1"), check("gpu-2", seconds=3.5), check("gpu-3")])
    assert (row.host, row.reason, row.seconds) == ("gpu-[1:3]", "right", 3.5)


def test_for_different_numbers_those_of_the_first_host_are_shown() -> None:
    [row] = merge_equal_records([check("gpu-1", "5.2 GB/s"), check("gpu-2", "3.1 GB/s")])
    assert row.reason == "5.2 GB/s (gpu-1 cpu; others differ)"


def test_failed_checks_are_grouped_only_if_their_texts_are_equal() -> None:
    bad = [check(host, f"{host} has no library", status="fail") for host in ("gpu-1", "gpu-2")]
    rows = merge_equal_records([check("gpu-3"), *bad, check("gpu-4", "it has two", status="fail")])
    assert [(row.host, row.status, row.reason) for row in rows] == [
        ("gpu-3", "ok", "right"),
        ("gpu-1, gpu-2", "fail", "gpu-1 has no library"),
        ("gpu-4", "fail", "it has two"),
    ]


def test_devices_and_records_without_a_host_keep_their_rows() -> None:
    records = [check("a"), check("a", device="cuda:0"), check(None, id="fleet.alike", device=None)]
    assert merge_equal_records(records) == records


def test_a_row_is_one_line_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    print_checks([check("a", "word " * 100), check("b", "word " * 100)])
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["host", "status", "check", "device", "seconds", "reason"]
    assert row.startswith("a, b")
    assert row.endswith(("word " * 100).rstrip())
