"""The fan-out: order, bound, outcomes, retries, deadlines, interruption."""

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision.core.errors import HostKeyError, RemoteCommandError, TransportError
from provision.fleet.ssh import AuthenticationError, FanOut, Task, dispatch, fan_out


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "FIRST_BACKOFF_S", 0.01)


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [times]

    def call() -> str:
        if left[0]:
            left[0] -= 1
            raise error
        return "done"

    return call


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(1, 8))
def test_every_task_has_its_outcome_and_the_limit_holds(number_of_tasks: int, limit: int) -> None:
    lock = threading.Lock()
    now, most = 0, 0

    def call(number: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.0005)
        with lock:
            now -= 1
        if number % 3 == 0:
            raise ValueError(number)
        return number

    tasks = [Task(str(number), partial(call, number)) for number in range(number_of_tasks)]
    done = fan_out(tasks, limit=limit)
    assert list(done.outcomes) == [task.host for task in tasks]
    assert most <= limit
    assert done.values == {str(number): number for number in range(len(tasks)) if number % 3}
    assert {host: str(error) for host, error in done.errors.items()} == {
        str(n): str(n) for n in range(0, len(tasks), 3)
    }
    assert done.figures()["tasks"] == len(tasks)


def test_tasks_begin_in_the_order_given() -> None:
    order: list[int] = []
    fan_out([Task(str(number), partial(order.append, number)) for number in range(20)], limit=1)
    assert order == list(range(20))


def test_a_failed_connection_is_tried_again_before_all_other_tasks() -> None:
    order: list[str] = []
    flaky = failing(1, TransportError("gone"))

    def call(name: str) -> str:
        order.append(name)
        time.sleep(0.03)
        return flaky() if name == "flaky" else "done"

    names = ["flaky", *(f"host{number}" for number in range(6))]
    done = fan_out([Task(name, partial(call, name)) for name in names], limit=1)
    assert not done.errors
    assert done.outcomes["flaky"].tries == 2
    # Its back-off ended while the next task ran, so it did not queue behind the rest.
    assert order.index("flaky", 1) <= 3
    figures = done.figures()
    assert (figures["tasks"], figures["retries"]) == (8, 1)


def test_the_time_in_the_queue_counts_the_tasks_before() -> None:
    calls = {"first": lambda: time.sleep(0.05), "second": lambda: None}
    done = fan_out([Task(name, call) for name, call in calls.items()], limit=1)
    first, second = done.outcomes["first"], done.outcomes["second"]
    assert second.queued_s >= first.run_s
    assert second.wait_s <= second.queued_s
    figures = done.figures()
    assert figures["queued_p99_ms"] == second.queued_s * 1000
    assert figures["wait_p99_ms"] <= figures["queued_p99_ms"]


def test_retries_end() -> None:
    done = fan_out([Task("one", failing(9, TransportError("gone")), retries=2)])
    assert done.outcomes["one"].tries == 3
    with pytest.raises(TransportError, match="gone"):
        done.outcomes["one"].result()


@pytest.mark.parametrize(
    "error", [HostKeyError("changed"), AuthenticationError("refused"), RemoteCommandError("failed"), ValueError("bug")]
)
def test_a_permanent_error_is_not_tried_again(error: Exception) -> None:
    done = fan_out([Task("one", failing(1, error), retries=5)])
    assert done.outcomes["one"].error is error
    assert done.outcomes["one"].tries == 1


def test_a_deadline_frees_the_slot_and_cancels_the_task() -> None:
    cancelled = threading.Event()
    slow = Task("slow", partial(cancelled.wait, 20), deadline_s=0.1, cancel=cancelled.set)
    done = fan_out([slow, Task("next", lambda: True)], limit=1)
    assert isinstance(done.errors["slow"], TransportError)
    assert "host slow did not finish within 0.1 s" in str(done.errors["slow"])
    assert done.values == {"next": True}
    assert cancelled.wait(5)


def test_a_call_that_does_not_end_keeps_no_other_host_waiting() -> None:
    never = threading.Event()
    done = fan_out([Task("hung", partial(never.wait, 20), deadline_s=0.1), Task("next", lambda: True)], limit=1)
    never.set()
    assert done.values == {"next": True}
    assert isinstance(done.errors["hung"], TransportError)


def test_without_tasks_nothing_happens() -> None:
    done: FanOut[None] = fan_out([])
    assert done.outcomes == {}
    assert {*done.figures().values()} <= {0.0, done.seconds}


def test_a_host_given_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="the same host"):
        fan_out([Task("one", lambda: 1), Task("one", lambda: 2)])


def test_ctrl_c_drops_waiting_tasks_and_cancels_running_ones() -> None:
    cancelled, started, waited = (threading.Event() for _ in range(3))

    def run() -> None:
        started.set()
        cancelled.wait(20)

    def interrupt() -> None:
        started.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            fan_out([Task("runs", run, cancel=cancelled.set), Task("waits", waited.set)], limit=1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert cancelled.is_set()
    assert not waited.is_set()
