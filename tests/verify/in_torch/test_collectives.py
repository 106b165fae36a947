"""Processes that exchange numbers: results are exact, or the reason for a refusal is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from verify import inputs
from verify.checks.collectives import exchange as processes
from verify.checks.collectives.exchange import evaluate_collectives as evaluate
from verify.records import CheckContext


def test_one_wrong_number_is_a_failure_that_names_the_collective() -> None:
    answers: dict[int, dict[str, Any]] = {rank: {"wrong": {"all-reduce": 0, "all-gather": rank}} for rank in range(2)}
    outcome = evaluate(answers, {}, "")
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
    answer = processes._run_rank(
        0,
        devices=["cpu"],
        store_path=tmp_path / "store",
        backend="gloo",
        large_bytes=0,
        spoiled=False,
    )
    assert answer["wrong"] == {"all-reduce": 0, "all-gather": 0}


def test_a_missing_interface_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOOPBACK", "nowhere0")
    outcome = processes.gloo(CheckContext())
    assert outcome.status == "fail"
    assert "the processes could not communicate: process 0: " in outcome.reason
    assert "nowhere0" in str(outcome.evidence)
    assert "ip address show nowhere0" in (outcome.remedy or "")
