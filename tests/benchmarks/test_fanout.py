"""The benchmark of the fan-out: its tasks fail once where they should, and urgent ones are measured apart."""

from __future__ import annotations

import pytest

from benchmarks import fanout
from provision.fleet.ssh import dispatch, fan_out


def test_some_tasks_are_retried_and_urgent_ones_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "FIRST_BACKOFF_S", 0.01)
    tasks = [fanout.make_task(number, 100, 0.001) for number in range(100)]
    done = fan_out(tasks, limit=2)
    assert not done.errors
    assert done.stats.retries == 100 / fanout.FLAKY_EVERY
    assert [task.priority for task in tasks] == [0] * 90 + [1] * 10
    assert fanout.queued_ms(done, tasks, 1)["p99_ms"] < fanout.queued_ms(done, tasks, 0)["p50_ms"]
