"""Comparison of equal devices: counting of votes, and the slow one."""

from __future__ import annotations

from typing import Any

import pytest

from verify.runner.registry import compare_hashes, compare_speeds, minority

H100 = "NVIDIA H100 80GB HBM3"


def ballots(*products: str, names: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    return {
        f"cuda:{place}": {
            "evidence": {"name": names[place] if names else H100, "result_hashes": {"product": value, "norm": "n"}}
        }
        for place, value in enumerate(products)
    }


@pytest.mark.parametrize(
    ("hashes", "odd"),
    [
        ({"a": "x", "b": "x", "c": "x"}, []),
        ({"a": "x", "b": "y", "c": "x"}, ["b"]),
        ({"a": "x", "b": "y"}, ["a", "b"]),
        ({"a": "x", "b": "x", "c": "y", "d": "y"}, ["a", "b", "c", "d"]),
    ],
)
def test_the_minority_is_named(hashes: dict[str, str], odd: list[str]) -> None:
    assert minority(hashes) == odd


def test_the_device_with_other_bits_is_named() -> None:
    same = compare_hashes(ballots("x", "x", "x"))
    assert same
    assert (same.status, same.reason) == ("ok", "3 devices give the same bits as the equal ones")
    other = compare_hashes(ballots("x", "x", "y", "x"))
    assert other
    assert (other.status, other.reason) == ("fail", f"different bits than equal devices: cuda:2: product on {H100}")


def test_different_devices_are_not_compared() -> None:
    assert compare_hashes(ballots("x", "y", names=(H100, "NVIDIA L4"))) is None
    assert compare_hashes(ballots("x")) is None


def answers(*values: float, unit: str = "GB/s", names: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    return {
        f"cuda:{place}": {
            "figures": [{"name": "memory", "value": value, "unit": unit}],
            "evidence": {"name": names[place] if names else "NVIDIA H100 80GB HBM3"},
        }
        for place, value in enumerate(values)
    }


def test_the_slow_one_of_equal_devices_is_named() -> None:
    even = compare_speeds(answers(3000, 2900, 2990))
    assert even
    assert even.status == "ok"
    odd = compare_speeds(answers(3000, 2990, 2700))
    assert odd
    assert (odd.status, odd.reason) == ("warn", "cuda:2 is 10% behind the best in memory")
    late = compare_speeds(answers(1.0, 1.2, unit="ms"))
    assert late
    assert (late.status, late.reason) == ("warn", "cuda:1 is 17% behind the best in memory")


def test_different_and_single_devices_are_not_compared() -> None:
    assert compare_speeds(answers(3000)) is None
    assert compare_speeds(answers(3000, 900, names=("NVIDIA H100 80GB HBM3", "NVIDIA L4"))) is None
