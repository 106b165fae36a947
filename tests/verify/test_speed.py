"""Evaluation of speeds and memory peaks: floors by card, comparison of equal devices, exponents."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from verify.attention.speed import SweepRow, operations, sweep
from verify.checks.memory import attention as memory
from verify.checks.speed import attention as speed
from verify.host import devices
from verify.host.views.pcie import Link
from verify.operators.speed import compare_like_devices, evaluate, link_floor, speed_floor
from verify.records import CheckContext, Figure
from verify.tables import table


@pytest.mark.parametrize(
    ("name", "kind", "least"),
    [
        ("NVIDIA H100 80GB HBM3", "gemm_bfloat16", 794.5 * 0.85),
        ("NVIDIA H100 80GB HBM3", "memory", 3350 * 0.75),
        ("NVIDIA H200", "copy", 48),
        ("NVIDIA A100-SXM4-80GB", "memory", 2039 * 0.75),
        ("NVIDIA B200", "copy", None),
        ("NVIDIA H100 PCIe", "memory", 2000 * 0.75),
        ("NVIDIA GeForce RTX 4090", "gemm_bfloat16", None),
        ("NVIDIA L4", "memory", 300 * 0.65),
        # Names similar to a known card: another board, another chip, a slice.
        ("NVIDIA H200 NVL", "gemm_bfloat16", None),
        ("NVIDIA H200 NVL", "copy", None),
        ("NVIDIA GH200 480GB", "gemm_bfloat16", 821 * 0.85),
        ("NVIDIA GH200 480GB", "copy", None),
        ("NVIDIA A100 80GB PCIe", "memory", 1935 * 0.75),
        ("NVIDIA A100 80GB PCIe", "copy", None),
        ("NVIDIA H200 MIG 1g.18gb", "memory", None),
        ("NVIDIA GB200", "gemm_bfloat16", 1822 * 0.85),
        (None, "memory", None),
    ],
)
def test_a_card_has_its_known_floors(name: str | None, kind: str, least: float | None) -> None:
    found, source = speed_floor(name, kind)
    assert found == pytest.approx(least)
    assert (source is None) == (least is None)


def test_every_card_matches_exactly_one_row() -> None:
    import re

    names = ("NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA A100-SXM4-80GB", "NVIDIA B200", "NVIDIA GH200 480GB")
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
    assert evaluate([good], CheckContext(), {}).status == "ok"
    outcome = evaluate([good, bad], CheckContext(), {})
    assert outcome.status == "warn"
    assert outcome.reason == "slow: bfloat16 products 412 TFLOP/s, at least 675"
    assert evaluate([Figure("x", float("nan"), "GB/s", 1.0)], CheckContext(), {}).status == "warn"


def test_without_a_floor_a_speed_is_recorded_and_the_injected_fault_is_still_noticed() -> None:
    figures = [Figure("memory, read and written", 14.0, "GB/s")]
    assert evaluate(figures, CheckContext(), {}).reason == "memory, read and written 14 GB/s: recorded, no floor known"
    assert evaluate(figures, CheckContext(faults=frozenset({"slow"})), {}).status == "warn"


def answers(*values: float, unit: str = "GB/s", names: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    return {
        f"cuda:{place}": {
            "figures": [{"name": "memory", "value": value, "unit": unit}],
            "evidence": {"name": names[place] if names else "NVIDIA H100 80GB HBM3"},
        }
        for place, value in enumerate(values)
    }


def test_the_slow_one_of_equal_devices_is_named() -> None:
    even = compare_like_devices(answers(3000, 2900, 2990))
    assert even
    assert even.status == "ok"
    odd = compare_like_devices(answers(3000, 2990, 2700))
    assert odd
    assert (odd.status, odd.reason) == ("warn", "cuda:2 is 10% behind the best in memory")
    late = compare_like_devices(answers(1.0, 1.2, unit="ms"))
    assert late
    assert (late.status, late.reason) == ("warn", "cuda:1 is 17% behind the best in memory")


def test_different_and_single_devices_are_not_compared() -> None:
    assert compare_like_devices(answers(3000)) is None
    assert compare_like_devices(answers(3000, 900, names=("NVIDIA H100 80GB HBM3", "NVIDIA L4"))) is None


def test_the_exponent_describes_the_growth() -> None:
    lengths = [512, 1024, 2048, 4096]
    assert memory.exponent({length: 16 * length**2 for length in lengths}) == pytest.approx(2)
    assert memory.exponent({length: 16 * length for length in lengths}) == pytest.approx(1)
    assert memory.exponent({128: 5, 256: 9, 512: 20}) is None


def peaks(flash: int, standard: int) -> dict[str, dict[int, int]]:
    lengths = [512, 1024, 2048]
    return {"flash": {n: 256 * n**flash for n in lengths}, "standard": {n: 16 * n**standard for n in lengths}}


def test_quadratic_memory_is_not_flash_attention() -> None:
    good = memory.evaluate(peaks(1, 2), 64 << 30, {})
    assert good.status == "ok"
    values = {figure.name: figure.value for figure in good.figures}
    assert values["standard over flash at 2048"] == 128
    assert values["longest sequence, standard, by the fit"] == 65536  # 16 n^2 bytes in 64 GiB
    bad = memory.evaluate(peaks(2, 2), 64 << 30, {})
    assert (bad.status, "power 2.00" in bad.reason) == ("fail", True)
    assert memory.evaluate(peaks(1, 1), 64 << 30, {}).status == "error"
    assert memory.evaluate({"flash": {512: 1}, "standard": {}}, 1, {}).status == "error"


def test_buffers_of_short_sequences_are_excluded_from_a_cards_flash_exponent() -> None:
    flash = {512: 2 << 20, 1024: 5 << 20, 2048: 5 << 20, 4096: 2 << 20, 8192: 4 << 20, 16384: 8 << 20}
    standard = {length: 16 * length**2 for length in flash}
    measured = {"flash": flash, "standard": standard}
    outcome = memory.evaluate(measured, 64 << 30, {}, flash_from=memory.GPU_FLASH_FIT_FROM)
    assert {figure.name: figure.value for figure in outcome.figures}["exponent, flash"] == pytest.approx(1)
    # a path that keeps the scores is noticed where no more than short ones fit
    short = {"flash": {length: 16 * length**2 for length in (512, 1024, 2048)}, "standard": standard}
    assert memory.evaluate(short, 64 << 30, {}, flash_from=memory.GPU_FLASH_FIT_FROM).status == "fail"


def test_a_point_counts_two_products_for_each_head() -> None:
    assert operations((2, 512, 12, 64)) == 4 * 2 * 12 * 512 * 512 * 64


class Clock:
    """A device whose measurements take a time that follows from their length, and its clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, seconds_at_128: float) -> None:
        self.now, self.at_128 = 0.0, seconds_at_128
        monkeypatch.setattr("verify.attention.speed.time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr("verify.attention.speed.measure", self.measure)

    def measure(
        self, point: tuple[int, ...], device: str, *, causal: bool, backward: bool, **_: Any
    ) -> dict[str, float]:
        seconds = self.at_128 * (point[1] / 128) ** 2
        self.now += 4 * seconds
        return {"flash": seconds, "standard": seconds}


def test_a_quick_device_is_measured_at_every_length_causal_and_not_forward_and_backward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Clock(monkeypatch, seconds_at_128=1e-9)
    rows = list(sweep("cuda:0", "full"))
    assert {row.length for row in rows} == {128, 256, 512, 1024, 2048, 4096, 8192, 16384}
    assert {row.dim for row in rows} == {64, 128}
    assert {(row.causal, row.backward) for row in rows} == {
        (False, False), (False, True), (True, False), (True, True),
    }  # fmt: skip
    assert len(rows) == 8 * 2 * 4
    assert {row.dim for row in sweep("cuda:0", "standard")} == {64}


@pytest.mark.parametrize("level", ["standard", "full"])
def test_a_slow_device_is_measured_within_the_time_of_the_level(monkeypatch: pytest.MonkeyPatch, level: Any) -> None:
    clock = Clock(monkeypatch, seconds_at_128=0.002)
    lengths = [row.length for row in sweep("cpu", level)]
    assert lengths
    assert max(lengths) < 16384
    assert clock.now <= table("speed")["sweep"]["cpu"]["seconds"][level]


def test_the_longest_length_that_both_paths_reached_is_reported() -> None:
    rows = [
        SweepRow((1, length, 2, 64), causal, False, 0.001 * length, standard and 0.001 * length * standard)
        for causal in (False, True)
        for length, standard in ((128, 2.0), (256, 3.0), (512, None))
    ]
    gained = {figure.name: figure.value for figure in speed.gains(rows)}
    assert gained == {
        "flash (1, 256, 2, 64)": pytest.approx(operations((1, 256, 2, 64)) / 0.256 / 1e12),
        "standard over flash, forward, not causal, (1, 256, 2, 64)": pytest.approx(3),
        "standard over flash, forward, causal, (1, 256, 2, 64)": pytest.approx(3),
    }
    by_length = speed.milliseconds_by_length(rows)["forward, head dimension 64, milliseconds by length"]
    assert list(by_length["flash, causal"]) == [128, 256, 512]
    assert list(by_length["standard"]) == [128, 256]


def test_a_cpus_free_memory_is_what_kernel_and_control_group_leave(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:     2048 kB\n")
    group = tmp_path / "group"
    group.mkdir()
    places = {"/proc/meminfo": tmp_path / "meminfo", "/sys/fs/cgroup": group}
    monkeypatch.setattr(devices, "Path", lambda *parts: places[parts[0]].joinpath(*parts[1:]))
    assert devices.free_bytes("cpu") == 2 << 20
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("524288\n")
    assert devices.free_bytes("cpu") == 2 << 20
    (group / "memory.max").write_text("1048576\n")
    assert devices.free_bytes("cpu") == 524288
