"""Checks of many hosts for a reader: identical results are shown once."""

from typing import Any

import pytest

from provision.core.models.records import CheckRecord, HostSummary, ServeRecord
from provision.pipeline.operations import print_checks
from provision.report.group import merge_equal_records, named_endpoint
from tests.report.sample import record


def check(host: str | None, reason: str = "right", id_: str = "kernels.gemm", **fields: Any) -> CheckRecord:
    return record(id_, host=host, reason=reason, **fields)


def test_failed_checks_are_grouped_only_if_their_texts_are_equal() -> None:
    bad = [check(host, f"{host} has no library", status="fail") for host in ("gpu-1", "gpu-2")]
    rows = merge_equal_records([*bad, check("gpu-4", "it has two", status="fail")])
    assert [(row.host, row.status, row.reason) for row in rows] == [
        ("gpu-1, gpu-2", "fail", "gpu-1 has no library"),
        ("gpu-4", "fail", "it has two"),
    ]


def test_devices_and_records_without_a_host_keep_their_rows() -> None:
    records = [check("a"), check("a", device="cuda:0"), check(None, id_="fleet.alike", device=None)]
    assert merge_equal_records(records) == records


def test_verify_prints_failures_then_warnings_then_a_line_for_each_family(capsys: pytest.CaptureFixture[str]) -> None:
    records = [check(f"gpu-{number}", id_=f"kernels.k{number}") for number in range(1, 41)]
    records += [check("gpu-1", "no such check here", id_="kernels.fp8", status="skip")]
    records += [check("gpu-1", "late " * 40, id_="host.clock", device=None, status="warn", remedy="set the clock")]
    records += [check(f"gpu-{number}", "wrong", device="cuda:0", status="fail") for number in (1, 2, 3)]
    print_checks(records)
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["status", "check", "where", "result"]
    assert [row.split()[:2] for row in rows if not row.startswith(" ")] == [
        ["fail", "kernels.gemm"],
        ["warn", "host.clock"],
        ["fail", "kernels"],
        ["warn", "host"],
    ]
    assert "gpu-[1:3] cuda:0" in rows[0]
    assert rows[1].endswith(("late " * 40).rstrip()), "without a terminal a row is one line"
    assert rows[2].strip() == "remedy: set the clock"
    assert "3 fail, 40 ok, 1 skip" in rows[3]


@pytest.mark.parametrize(
    ("adapters", "text"),
    [((), "model m"), (("a",), "model m with adapter a"), (("a", "b"), "model m with adapters a, b")],
)
def test_an_endpoint_is_named_with_its_model_and_adapters(adapters: tuple[str, ...], text: str) -> None:
    host = HostSummary(
        name="h", state="serving", changed=False, model="m", serve=ServeRecord(model="m", adapters=adapters)
    )
    assert named_endpoint("http://h/v1", [host, host]) == f"http://h/v1, {text}"
