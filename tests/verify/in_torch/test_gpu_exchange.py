"""Data exchange between GPUs of one host: writes that arrive or do not, floors of the bus, and exact numbers."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from provision.phases.serve.options import options
from tests.verify.in_torch.pretend_card import pretend
from verify import inputs
from verify.checks.collectives import exchange
from verify.operators.speed import board_floor
from verify.records import CheckContext
from verify.runner.last_run import lasting_warnings

H100 = "NVIDIA H100 80GB HBM3"


def pair(wrong: int = 0, *, direct: bool = True, speed: float = 3e11, latency: float = 4e-6) -> dict[str, Any]:
    return {"wrong": wrong, "direct": direct, "bytes_per_s": speed, "latency_s": latency}


def test_writes_that_arrive_are_reported_with_the_pairs_that_go_through_the_host() -> None:
    outcome = exchange.evaluate_peers({"cuda:0 -> cuda:1": pair(), "cuda:1 -> cuda:0": pair()})
    assert (outcome.status, outcome.reason) == ("ok", "writes of 2 pairs of GPUs arrive, all of them directly")
    assert [(one.name, one.value) for one in outcome.figures] == [("pairs whose writes do not arrive", 0)]
    outcome = exchange.evaluate_peers({"cuda:0 -> cuda:1": pair(direct=False), "cuda:1 -> cuda:0": pair()})
    assert "1 of 2 pairs through the host" in outcome.reason


def test_pairs_of_similar_speed_are_ok_and_the_slowest_is_named() -> None:
    outcome = exchange.evaluate_pairs(
        {"cuda:0 -> cuda:1": pair(), "cuda:1 -> cuda:0": pair(speed=2.5e11, latency=9e-6)}
    )
    assert (outcome.status, outcome.reason) == (
        "ok",
        "2 pairs of GPUs copy, all directly; the slowest, cuda:1 -> cuda:0, 250 GB/s",
    )
    assert [(one.name, one.value) for one in outcome.figures] == [
        ("slowest copy between two", 250.0),
        ("slowest pair", pytest.approx(250 / 275)),
        ("latest small copy", pytest.approx(9.0)),
    ]


def test_copies_in_both_directions_at_once_are_recorded_without_a_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretend(monkeypatch) as card:
        speed = exchange._both_ways("cuda:0", "cuda:0", 1 << 16)
    assert speed == pytest.approx(2 * (1 << 16) / 0.001)
    assert card.ran.count("ones") == 4
    outcome = exchange.evaluate_pairs({"cuda:0 -> cuda:1": pair()}, both={"a <-> b": 5e11, "a <-> c": 1e9})
    (both,) = (one for one in outcome.figures if "both directions" in one.name)
    assert (outcome.status, both.value, both.unit, both.floor) == ("ok", 1.0, "GB/s", None)
    assert outcome.evidence["both_ways_bytes_per_s"]["a <-> b"] == 5e11


def test_a_pair_far_behind_the_median_is_a_warning_that_names_it() -> None:
    """Writes between cards stay enabled, because they arrive."""
    alike = {f"cuda:{one} -> cuda:{two}": pair() for one in range(4) for two in range(4) if one != two}
    outcome = exchange.evaluate_pairs({**alike, "cuda:1 -> cuda:3": pair(speed=1e11)})
    assert (outcome.status, outcome.reason) == (
        "warn",
        "1 of 12 pairs of GPUs copy slower than 60% of the median: cuda:1 -> cuda:3 100 GB/s",
    )
    assert exchange.evaluate_peers({**alike, "cuda:1 -> cuda:3": pair(speed=1e11)}).status == "ok"


def test_pairs_through_the_host_are_compared_with_each_other() -> None:
    """A DGX-1: one or two NVLinks directly, all other pairs through the host."""
    board = {"a": pair(speed=4.8e10), "b": pair(speed=2.4e10), "c": pair(speed=4.8e10), "d": pair(speed=2.4e10)}
    board |= {name: pair(direct=False, speed=9e9) for name in "ef"}
    assert exchange.evaluate_pairs(board).status == "ok"
    assert exchange.evaluate_pairs({**board, "f": pair(direct=False, speed=1e9)}).status == "warn"


def test_a_mirror_that_shows_writers_their_own_data_is_a_warning_with_every_switch() -> None:
    outcome = exchange.evaluate_peers({"cuda:0 -> cuda:1": pair(wrong=2_111_488), "cuda:1 -> cuda:0": pair()})
    assert (outcome.status, outcome.reason) == (
        "warn",
        "writes do not arrive in the other GPU's memory: cuda:0 -> cuda:1 (2111488 of 2111488 numbers)",
    )
    row = options()["no_peer_writes"]
    variables = (f"{name}={variable['value']}" for name, variable in row["environment"].items())
    for switch in (*variables, row["option"], row["fusion"]["field"]):
        assert switch in (outcome.remedy or "")


@pytest.mark.parametrize(
    ("status", "held"), [("skip", True), ("error", True), (None, True), ("ok", False), ("warn", False)]
)
def test_a_warning_is_kept_until_writes_are_measured_again(status: str | None, held: bool) -> None:
    warned = {"id": "collectives.peers", "status": "warn", "reason": "writes do not arrive"}
    now = [{"id": "collectives.peers", "status": status, "reason": "other processes use 90%"}] if status else []
    for before in ({"checks": [warned]}, {"checks": [], "carried": [warned]}, {}):
        document = {"checks": [dict(record) for record in now]}
        expected = [warned] if held and before else []
        assert lasting_warnings(document, before) == expected
        if expected and status:
            assert "still open from an earlier run: writes do not arrive" in document["checks"][0]["reason"]


def processes(count: int, seconds: float) -> dict[int, dict[str, Any]]:
    return {rank: {"wrong": {"all-reduce": 0}, "seconds": seconds} for rank in range(count)}


@pytest.mark.parametrize(
    ("cards", "kind", "floor"),
    [
        ((H100,) * 8, "bus", 460 * 0.9),
        ((H100,) * 4, "bus", None),
        ((H100,) * 7 + ("NVIDIA H200",), "bus", None),
        (("NVIDIA H200 NVL",) * 8, "bus", None),
        (("NVIDIA H200",) * 8, "both", 783.7 * 0.6),
        (("NVIDIA A100-SXM4-80GB",) * 8, "both", None),
        (("NVIDIA B200",) * 8, "bus", 723.3 * 0.75),
        (("NVIDIA GB200",) * 4, "pair", 746 * 0.75),
        (("AMD Instinct MI355X OAM",) * 8, "bus", 304 * 0.9),
        (("AMD Instinct MI250X/MI250",) * 16, "bus", None),
        (("AMD Instinct MI250X",) * 16, "pair", 38 * 0.9),
    ],
)
def test_a_floor_applies_to_a_whole_board_of_equal_cards(
    cards: tuple[str, ...], kind: str, floor: float | None
) -> None:
    """The figures of all boards are on the page about verify, which tests/docs compares with the table."""
    least, source = board_floor(cards, kind)
    assert least == (None if floor is None else pytest.approx(floor))
    assert (source is None) == (floor is None)


@pytest.mark.parametrize(("speed", "status"), [(7.5e11, "ok"), (3.9e11, "warn"), (2e11, "fail")])
def test_copies_in_both_directions_that_block_each_other_are_found(speed: float, status: str) -> None:
    """One direction alone reaches its floor."""
    alike = {f"cuda:{one} -> cuda:{two}": pair(speed=3.9e11) for one in range(8) for two in range(8) if one != two}
    outcome = exchange.evaluate_pairs(
        alike, ("NVIDIA H200",) * 8, {"cuda:0 <-> cuda:1": 7.6e11, "cuda:2 <-> cuda:5": speed}
    )
    assert outcome.status == status
    assert ("cuda:2 <-> cuda:5" in outcome.reason) == (status != "ok")
    assert outcome.figures[2].floor == pytest.approx(783.7 * 0.6)


@pytest.mark.parametrize(("speed", "status"), [(3.6e11, "ok"), (2.5e11, "warn"), (1e11, "fail")])
def test_pairs_of_a_board_that_are_all_slow_are_compared_with_its_floor(speed: float, status: str) -> None:
    """No pair differs from the median."""
    alike = {f"cuda:{one} -> cuda:{two}": pair(speed=speed) for one in range(8) for two in range(8) if one != two}
    outcome = exchange.evaluate_pairs(alike, (H100,) * 8)
    assert outcome.status == status
    assert outcome.figures[0].floor == pytest.approx(335 * 0.9)
    assert exchange.evaluate_pairs(alike, (H100,) * 7).status == "ok", "no floor is known for other boards"


@pytest.mark.parametrize(("bus", "status"), [(430e9, "ok"), (300e9, "warn"), (100e9, "fail")])
def test_a_bus_below_its_floor_is_a_warning_and_far_below_it_a_failure(bus: float, status: str) -> None:
    seconds = 2 * 7 / 8 * exchange.LARGE_BYTES / bus
    outcome = exchange.evaluate_bus(processes(8, seconds), (H100,) * 8, exchange.LARGE_BYTES, frozenset())
    assert outcome.status == status
    assert f"{bus / 1e9:.3g} GB/s" in outcome.reason


@pytest.mark.parametrize(("count", "status"), [(4, "ok"), (8, "fail")])
def test_some_gpus_of_a_board_have_no_floor(count: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service computes on four of eight GPUs."""
    names = [H100] * 8
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: names[int(gpu[-1])])
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(name=names[index], total_memory=1)
    )
    monkeypatch.setattr(exchange, "run_collectives", lambda gpus, **_: processes(len(gpus), 1.0))
    monkeypatch.setattr(exchange, "_copies", lambda *_: pair(speed=1e11))
    monkeypatch.setattr(exchange, "_both_ways", lambda *_: 1e11)
    context = CheckContext(devices=tuple(f"cuda:{index}" for index in range(count)))
    assert [run(context).status for run in (exchange.nccl, exchange.pairs)] == [status] * 2


def test_cards_without_a_floor_are_recorded() -> None:
    outcome = exchange.evaluate_bus(processes(2, 0.5), ("NVIDIA L4", "NVIDIA L4"), 1 << 30, frozenset())
    assert (outcome.status, outcome.figures[-1].floor) == ("ok", None)


def test_a_process_without_an_answer_is_named() -> None:
    answers: dict[int, dict[str, Any]] = {
        0: {"wrong": {"all-reduce": 0}, "seconds": 0.1},
        1: {"problem": "killed after 45 s", "output": ""},
    }
    outcome = exchange.evaluate_bus(answers, (H100, H100), 1 << 30, frozenset())
    assert (outcome.status, outcome.reason) == (
        "fail",
        "the processes could not communicate: process 1: killed after 45 s",
    )


@pytest.mark.parametrize("run", [exchange.nccl, exchange.pairs, exchange.peers])
def test_checks_of_pairs_are_skipped_for_a_single_card(run: Any) -> None:
    assert run(CheckContext(devices=("cuda:0",))).status == "skip"


def test_one_wrong_number_is_a_failure_that_names_the_collective() -> None:
    answers: dict[int, dict[str, Any]] = {rank: {"wrong": {"all-reduce": 0, "all-gather": rank}} for rank in range(2)}
    outcome = exchange.evaluate_collectives(answers, {}, "")
    assert (outcome.status, outcome.reason) == ("fail", "all-gather gave 1 wrong numbers")


def test_the_timed_collective_is_a_sum_that_switches_can_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL's NVLS supports sums of 32-bit floats and no maxima, so floors of boards with switches are those of a sum."""
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    asked: list[Any] = []

    def reduce(_: torch.Tensor, op: Any = dist.ReduceOp.SUM) -> None:
        asked.append(op)

    monkeypatch.setattr(dist, "all_reduce", reduce)
    try:
        inputs.reduce_sum(torch.ones(4))
    finally:
        dist.destroy_process_group()
    assert asked == [dist.ReduceOp.SUM]


def test_a_torch_without_scatter_in_gloo_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The gloo of torch 2.7 and older."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("ProcessGroupGloo does not support reduce_scatter")

    monkeypatch.setattr(dist, "reduce_scatter", refuse)
    answer = exchange._run_rank(
        0,
        devices=["cpu"],
        store_path=tmp_path / "store",
        backend="gloo",
        large_bytes=0,
        spoiled=False,
    )
    assert answer["wrong"] == {"all-reduce": 0, "all-gather": 0}


def test_a_missing_interface_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "LOOPBACK", "nowhere0")
    outcome = exchange.gloo(CheckContext())
    assert outcome.status == "fail"
    assert "the processes could not communicate: process 0: " in outcome.reason
    assert "nowhere0" in str(outcome.evidence)
    assert "ip address show nowhere0" in (outcome.remedy or "")


@pytest.mark.parametrize("count", [2, 8, 9, 10, 16])
def test_all_pairs_are_measured_and_no_process_connects_more_gpus_than_cuda(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int
) -> None:
    """Each pair leaves its names in the file of the process that measured it."""

    def used(one: str, two: str) -> None:
        with (tmp_path / str(os.getpid())).open("a") as file:
            file.write(f"{one} {two}\n")

    def copies(one: str, two: str, _bytes: int) -> dict[str, Any]:
        used(one, two)
        return pair()

    def writes(one: str, two: str, _faults: frozenset[str]) -> dict[str, Any]:
        used(one, two)
        return pair()

    monkeypatch.setattr(exchange, "_copies", copies)
    monkeypatch.setattr(exchange, "_both_ways", lambda *_: 5e11)
    monkeypatch.setattr(exchange, "_writes", writes)
    monkeypatch.setattr(exchange, "card_name", lambda _: "a card without a board in the tables")
    context = CheckContext(devices=tuple(f"cuda:{number}" for number in range(count)))
    for check in (exchange.pairs, exchange.peers):
        assert f"{count * (count - 1)} pairs of GPUs" in check(context).reason
        for file in tmp_path.iterdir():
            assert len(set(file.read_text().split())) <= exchange.CONNECTED
            file.unlink()


def test_a_part_of_the_pairs_that_ends_without_an_answer_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(exchange, "_writes", fails)
    with pytest.raises(RuntimeError, match="a process for 28 pairs: RuntimeError: an illegal memory access"):
        exchange.peers(CheckContext(devices=tuple(f"cuda:{number}" for number in range(10))))
