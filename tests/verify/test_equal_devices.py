"""Comparison of equal devices: counting of votes, and the slow one. test_host_comparison.py has different devices beside them."""

from __future__ import annotations

from typing import Any

import pytest

from verify.runner.registry import compare_hashes, compare_speeds

H100 = "NVIDIA H100 80GB HBM3"


def ballots(products: str) -> dict[str, dict[str, Any]]:
    """Return the results of equal cards; each letter stands for the bits of a card's product."""
    return {
        f"cuda:{place}": {"evidence": {"name": H100, "result_hashes": {"product": value, "norm": "n"}}}
        for place, value in enumerate(products)
    }


@pytest.mark.parametrize(
    ("products", "status", "reason"),
    [
        ("xxx", "ok", "3 devices give the same bits as the equal ones"),
        ("xxyx", "fail", f"different bits than equal devices: cuda:2: product on {H100}"),
        ("xy", "fail", f"different bits than equal devices: cuda:0, cuda:1: product on {H100}"),
        ("xxyy", "fail", f"different bits than equal devices: cuda:0, cuda:1, cuda:2, cuda:3: product on {H100}"),
    ],
)
def test_the_device_with_other_bits_than_most_is_named(products: str, status: str, reason: str) -> None:
    outcome = compare_hashes(ballots(products))
    assert outcome
    assert (outcome.status, outcome.reason) == (status, reason)


@pytest.mark.parametrize(
    ("values", "unit", "status", "reason"),
    [
        ((3000, 2900, 2990), "GB/s", "ok", "equal devices are within 5% of one another"),
        ((3000, 2990, 2700), "GB/s", "warn", "cuda:2 is 10% behind the best in memory"),
        ((1.0, 1.2), "ms", "warn", "cuda:1 is 17% behind the best in memory"),
    ],
)
def test_the_slow_one_of_equal_devices_is_named(values: tuple[float, ...], unit: str, status: str, reason: str) -> None:
    answers = {
        f"cuda:{place}": {"figures": [{"name": "memory", "value": value, "unit": unit}], "evidence": {"name": H100}}
        for place, value in enumerate(values)
    }
    outcome = compare_speeds(answers)
    assert outcome
    assert (outcome.status, outcome.reason) == (status, reason)
