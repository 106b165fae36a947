"""Which failed checks speak of a card, so that their host is quarantined, and of which GPU."""

from typing import Any

import pytest

from provision.core.tables import rows_of
from provision.features.quarantine.hardware import TABLE, HardwareCheck, hardware_failure
from verify.records import CheckResult, Figure, as_record
from verify.runner.registry import all_checks


def record(id_: str, device: str | None = None, status: Any = "fail", **more: Any) -> dict[str, Any]:
    return as_record(id_, "gpu-1", device, CheckResult(status, more.pop("reason", "wrong"), **more), 0.1)


def failure(*records: dict[str, Any], **more: Any) -> tuple[str, str | None] | None:
    found = hardware_failure({"checks": [*records], **more})
    return (found.check, found.device) if found else None


def test_every_row_names_a_check_and_families_that_exist() -> None:
    known = {check.id: check for check in all_checks()}
    families = {check.family for check in known.values()}
    for row in rows_of(TABLE, "hardware", HardwareCheck):
        assert row.check in known
        assert families.issuperset(row.unless_failed)
        assert not row.on_cards or known[row.check].each_device


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([record("kernels.vector_add", "cuda:0")], ("kernels.vector_add", "cuda:0")),
        ([record("kernels.gemm", "cuda:0"), record("kernels.gemm", "cuda:1", "ok")], ("kernels.gemm", "cuda:0")),
        ([record("kernels.memory_pattern", "cuda:0"), record("devices.ecc")], ("devices.ecc", None)),
    ],
    ids=["the only card", "one card of several", "the most telling failure"],
)
def test_the_failure_of_a_card_is_named(records: list[dict[str, Any]], found: tuple[str, str | None]) -> None:
    assert failure(*records) == found


def test_a_missing_card_counts_and_a_missing_driver_does_not() -> None:
    fewer = (Figure("GPUs", 7, "count", floor=8),)
    assert failure(record("devices.gpus", figures=fewer, reason="7 of 8 GPUs: missing PCI 0000:9b:00.0")) == (
        "devices.gpus",
        None,
    )
    layers = (Figure("GPUs: PCI", 8, "count"), Figure("GPUs: NVML", 0, "count"))
    assert failure(record("devices.gpus", figures=layers)) is None


@pytest.mark.parametrize(
    "records",
    [
        [record("kernels.gemm", "cpu")],
        [record("kernels.gemm", "cuda:0", "error")],
        [record("kernels.gemm", "cuda:0"), record("kernels.gemm", "cuda:1")],
        [record("kernels.gemm", "cuda:0"), record("libraries.files")],
        [record("kernels.gemm", "cuda:0") | {"found": {"at": "2026-01-01", "environment": "e1"}}],
        [record("operators.exp", "cuda:0")],
        [record("serving.answer")],
        [record("devices.ecc", status="warn")],
    ],
    ids=["cpu", "not known", "all GPUs", "damaged files", "known before", "operator", "service", "warning"],
)
def test_other_failures_say_nothing_of_a_card(records: list[dict[str, Any]]) -> None:
    assert failure(*records) is None


def test_an_injected_fault_marks_no_host() -> None:
    assert failure(record("devices.ecc"), injected=["sick-gpu"]) is None
    assert failure(record("devices.ecc"), injected=[]) is not None
