"""The fan-out: order, bound, outcomes, retries, deadlines, interruption."""

import os
import signal
import threading
import time
from functools import partial
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision.core.errors import HostKeyError, RemoteCommandError, TransportError
from provision.fleet.ssh import AuthenticationError, FanOut, Task, dispatch, fan_out


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "FIRST_BACKOFF_S", 0.01)


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
    assert most <= limit
    assert list(done.values.items()) == [(str(number), number) for number in range(len(tasks)) if number % 3]
    assert {host: str(error) for host, error in done.errors.items()} == {
        str(n): str(n) for n in range(0, len(tasks), 3)
    }


def test_tasks_begin_in_the_order_given() -> None:
    order: list[int] = []
    fan_out([Task(str(number), partial(order.append, number)) for number in range(20)], limit=1)
    assert order == list(range(20))


def test_a_failed_connection_is_tried_again_before_all_other_tasks() -> None:
    order: list[str] = []

    def call(name: str) -> None:
        order.append(name)
        time.sleep(0.03)
        if name == "flaky" and order.count("flaky") == 1:
            raise TransportError("gone")

    names = ["flaky", *(f"host{number}" for number in range(6))]
    done = fan_out([Task(name, partial(call, name)) for name in names], limit=1)
    assert not done.errors
    assert (len(order), order.count("flaky")) == (8, 2)
    # Its back-off ended while the next task ran, so it did not queue behind the rest.
    assert order.index("flaky", 1) <= 3


def test_retries_end() -> None:
    call = Mock(side_effect=TransportError("gone"))
    assert fan_out([Task("one", call, retries=2)]).errors == {"one": call.side_effect}
    assert call.call_count == 3


@pytest.mark.parametrize(
    "error", [HostKeyError("changed"), AuthenticationError("refused"), RemoteCommandError("failed"), ValueError("bug")]
)
def test_a_permanent_error_is_not_tried_again(error: Exception) -> None:
    call = Mock(side_effect=error)
    assert fan_out([Task("one", call, retries=5)]).errors == {"one": error}
    call.assert_called_once()


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
    assert done == FanOut({}, {})


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
