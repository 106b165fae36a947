"""Evaluation of speeds: floors by card and by link."""

import re

import pytest

from verify.host.views.pci import Link
from verify.operators.speed import evaluate, link_floor, speed_floor
from verify.records import CheckContext, Figure
from verify.tables import table


@pytest.mark.parametrize(
    ("name", "kind", "least"),
    [
        ("NVIDIA H100 80GB HBM3", "gemm_bfloat16", 794.5 * 0.85),
        ("NVIDIA H100 80GB HBM3", "attention_128", 370 * 0.85),
        ("NVIDIA H200", "copy", 48),
        ("NVIDIA L4", "memory", 300 * 0.65),
        ("AMD Instinct MI300X OAM", "gemm_bfloat16", 668.4 * 0.75),
        ("NVIDIA A100-SXM4-80GB", "gemm_fp8", None),
        ("NVIDIA GeForce RTX 4090", "gemm_bfloat16", None),
        # Names similar to a known card: another board, another chip, a slice, another variant.
        ("NVIDIA H200 NVL", "copy", None),
        ("NVIDIA GH200 480GB", "copy", None),
        ("NVIDIA H200 MIG 1g.18gb", "memory", None),
        ("AMD Instinct MI300X HF", "gemm_bfloat16", None),
        (None, "memory", None),
    ],
)
def test_a_card_has_its_known_floors(name: str | None, kind: str, least: float | None) -> None:
    """The figures of all cards are on the page about verify, which tests/docs compares with the table."""
    found, source = speed_floor(name, kind)
    assert found == pytest.approx(least)
    assert (source is None) == (least is None)


def test_every_card_matches_exactly_one_row() -> None:
    names = [
        *("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA H200 NVL"),
        *("NVIDIA B200", "NVIDIA GB200", "NVIDIA GH200 480GB"),
        *("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-40GB", "NVIDIA A100 80GB PCIe", "NVIDIA A100-PCIE-40GB"),
        *(
            f"AMD Instinct {name}"
            for name in ("MI250", "MI250X", "MI250X/MI250", "MI300X", "MI300X OAM", "MI350X OAM", "MI355X")
        ),
    ]
    for name in names:
        assert sum(bool(re.fullmatch(card["match"], name)) for card in table("speed")["card"]) == 1


@pytest.mark.parametrize(
    ("seen", "least"),
    [
        (Link(16.0, 16.0, 16, 16), 22.1),
        (Link(32.0, 32.0, 16, 16), 44.1),
        (Link(16.0, 16.0, 8, 16), 11.0),
        (Link(5.0, 8.0, 16, 16), 5.6),
        (Link(64.0, 64.0, 16, 16), None),
        (Link(None, 16.0, None, 16), None),
    ],
)
def test_copies_of_an_unknown_card_are_compared_with_its_link(seen: Link, least: float | None) -> None:
    found, source = link_floor(seen)
    assert (found and round(found, 1)) == least
    assert (source is None) == (least is None)


def test_a_speed_below_its_floor_is_a_warning_with_both_values() -> None:
    good, bad = (Figure("bfloat16 products", value, "TFLOP/s", 675.3, source="a book") for value in (700.0, 412.0))
    outcome = evaluate([good, bad], CheckContext(), {})
    assert outcome.status == "warn"
    assert outcome.reason == "slow: bfloat16 products 412 TFLOP/s, at least 675"


@pytest.mark.parametrize(
    ("value", "status"), [(675.3, "ok"), (675.2, "warn"), (337.7, "warn"), (337.6, "fail"), (float("nan"), "fail")]
)
def test_a_speed_far_below_its_floor_or_that_is_no_number_fails(value: float, status: str) -> None:
    figures = [Figure("bfloat16 products", one, "TFLOP/s", 675.3) for one in (700.0, value)]
    assert evaluate(figures, CheckContext(), {}).status == status


def test_without_a_floor_a_speed_is_recorded_and_the_injected_fault_is_still_noticed() -> None:
    figures = [Figure("memory, read and written", 14.0, "GB/s")]
    assert evaluate(figures, CheckContext(), {}).reason == "memory, read and written 14 GB/s: recorded, no floor known"
    assert evaluate(figures, CheckContext(faults=frozenset({"slow"})), {}).status == "warn"
