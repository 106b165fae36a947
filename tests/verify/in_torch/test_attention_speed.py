"""Times and memory of attention: what is measured on this CPU, not how much it is, and how it is judged and shown."""

from __future__ import annotations

import json
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from provision.core.models.records import HostSummary
from provision.report.page.series import rules
from tests.report.page.test_series import tables
from tests.report.sample import check
from verify.attention import speed as attention_speed
from verify.attention.speed import SweepRow, measure, operations, sweep
from verify.checks.memory import attention as memory
from verify.checks.speed import throughput as speed
from verify.host import devices
from verify.operators.speed import evaluate
from verify.records import CheckContext, CheckResult
from verify.tables import table


def test_scores_that_would_not_fit_into_the_hosts_memory_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = 3 * 4 * 2 * 64**2
    monkeypatch.setattr(attention_speed, "free_bytes", lambda _: 4 * scores)
    assert set(measure((1, 64, 2, 64), "cpu", budget_s=0.001)) == {"flash", "standard"}
    assert set(measure((1, 64, 2, 64), "cpu", backward=True, budget_s=0.001)) == {"flash"}


def test_memory_is_measured_to_8192_at_standard() -> None:
    outcome = memory.run(CheckContext(level="standard", device="cpu", devices=("cpu",)))
    assert outcome.status == "ok", outcome.reason
    peaks = outcome.evidence["peak bytes by length"]
    assert list(peaks["flash"]) == [128, 256, 512, 1024, 2048, 4096, 8192]
    reached = [
        length for length in peaks["flash"] if 3 * 4 * length**2 < attention_speed.SHARE * devices.free_bytes("cpu") / 4
    ]
    assert set(reached) <= set(peaks["standard"])
    assert peaks["standard"][1024] > peaks["flash"][1024]


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
    assert [values[f"standard over flash at {length}"] for length in (512, 1024, 2048)] == [32, 64, 128]
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
    gained = {figure.name: figure.value for figure in speed.gains(rows, None)}
    assert gained == {
        "flash (1, 256, 2, 64)": pytest.approx(operations((1, 256, 2, 64)) / 0.256 / 1e12),
        "standard over flash, forward, not causal, (1, 256, 2, 64)": pytest.approx(3),
        "standard over flash, forward, causal, (1, 256, 2, 64)": pytest.approx(3),
    }
    by_length = speed.milliseconds_by_length(rows)["forward, head dimension 64, milliseconds by length"]
    assert list(by_length["flash, causal"]) == [128, 256, 512]
    assert list(by_length["standard"]) == [128, 256]


@pytest.mark.parametrize(
    ("name", "length", "dim", "speed_of_it", "status"),
    [
        ("NVIDIA H100 80GB HBM3", 16384, 128, 354.0, "ok"),
        ("NVIDIA H100 80GB HBM3", 16384, 128, 300.0, "warn"),
        ("NVIDIA H100 80GB HBM3", 8192, 64, 150.0, "warn"),
        ("NVIDIA H100 80GB HBM3", 8192, 64, 130.0, "fail"),
        ("NVIDIA H100 80GB HBM3", 4096, 64, 130.0, "ok"),
        ("NVIDIA H200", 8192, 64, 297.0, "ok"),
        ("NVIDIA L4", 16384, 128, 50.0, "ok"),
        (None, 16384, 64, 0.1, "ok"),
    ],
)
def test_a_card_whose_attention_is_slower_than_published_at_long_lengths_is_told(
    name: str | None, length: int, dim: int, speed_of_it: float, status: str
) -> None:
    point = (1, length, 16, dim)
    seconds = operations(point) / speed_of_it / 1e12
    outcome = evaluate([*speed.gains([SweepRow(point, False, False, seconds, 9 * seconds)], name)], CheckContext(), {})
    assert outcome.status == status
    assert outcome.figures[0].value == pytest.approx(speed_of_it)


def host_with(outcome: CheckResult, id_: str) -> HostSummary:
    """Return a host with a check's result in the form of the run's records."""
    answer = json.loads(json.dumps(outcome.as_json()))
    record = check(id_, device="cuda:0", **{key: answer[key] for key in ("reason", "evidence", "figures")})
    return HostSummary.model_validate({"name": "a", "state": "serving", "changed": True, "checks": [record]})


def test_the_checks_give_the_evidence_that_the_page_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"flash": {512: 1000, 1024: 2000, 2048: 4000}, "standard": {512: 9000, 1024: 36000}}
    monkeypatch.setattr(speed, "measure", lambda *_, **__: {"flash": 0.0001, "standard": 0.001})
    lengths = [
        SweepRow((1, length, 2, 64), causal, backward, 1e-6 * length, 4e-6 * length)
        for length, causal, backward in product((128, 256), (False, True), (False, True))
    ]
    monkeypatch.setattr(speed, "sweep", lambda *_: lengths)
    monkeypatch.setattr(speed, "synchronize", lambda *_: {})
    hosts = {
        "memory.attention": host_with(memory.evaluate(peaks, 10**9, {}), "memory.attention"),
        "speed.attention": host_with(speed.attention(CheckContext(device="cpu")), "speed.attention"),
    }
    forward, backward, peak = (tables(hosts[rule.check], rule=rule)[0] for rule in rules())
    assert peak.rows == (
        ("512", "1 kB", "9 kB"),
        ("1024", "2 kB", "36 kB"),
        ("2048", "4 kB", ""),
    )
    for times in (forward, backward):
        assert times.headers == (
            "length in tokens", "flash, ms", "standard, ms", "flash, causal, ms", "standard, causal, ms",
        )  # fmt: skip
        assert times.rows == (
            ("128", "0.128", "0.512", "0.128", "0.512"),
            ("256", "0.256", "1.024", "0.256", "1.024"),
        )
