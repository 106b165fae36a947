"""Parallel work on many hosts: concurrency limit, deadlines, and retries of broken connections.

A slot is a thread that takes one task after the other. A pool of the standard library would not do: what no longer answers after
its deadline must neither keep another host waiting nor the program from ending, so its slot goes to a new thread. A task whose
connection failed keeps its slot for the next attempt, because the slowest host decides when a run ends.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from provision.core.errors import HostKeyError, TransportError
from provision.fleet.ssh.openssh import AuthenticationError

T = TypeVar("T")

FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 8.0
DEFAULT_LIMIT = 32
"""Default number of hosts worked on at once."""
GRACE_S = 5.0
"""Time that cancelled tasks get to end."""
TICK_S = 0.25
"""Time between two looks at the deadlines. Python notices Ctrl-C that came just before a wait only after it."""


@dataclass(frozen=True)
class Task(Generic[T]):
    """Work on one host."""

    host: str
    call: Callable[[], T]
    deadline_s: float = 600.0
    """Deadline of one attempt in seconds, from its start."""
    retries: int = 2
    """Further attempts after a TransportError that a retry may cure."""
    cancel: Callable[[], None] | None = None
    """Called from another thread to end the task early: the session's `close`."""


@dataclass(frozen=True)
class FanOut(Generic[T]):
    """Values of successful tasks and errors of failed ones, by host in the order given."""

    values: dict[str, T]
    errors: dict[str, BaseException]


def fan_out(tasks: Sequence[Task[T]], *, limit: int = DEFAULT_LIMIT) -> FanOut[T]:
    """Run all tasks and return when each has a result. Errors of tasks are results.

    Args:
        tasks: Tasks, at most one a host.
        limit: Maximum number of tasks at once.

    Raises:
        KeyboardInterrupt: Ctrl-C; waiting tasks were dropped and running ones cancelled.
        ValueError: Two tasks name the same host.
    """
    if len({task.host for task in tasks}) != len(tasks):
        raise ValueError("two tasks name the same host")
    looked = time.monotonic()
    ended: queue.SimpleQueue[_Job[T]] = queue.SimpleQueue()
    jobs = [_Job(task) for task in tasks]
    waiting, left = deque(jobs), set(jobs)
    try:
        for _ in range(min(max(1, limit), len(jobs))):
            _open_slot(waiting, ended)
        while left:
            with contextlib.suppress(queue.Empty):
                left.discard(ended.get(timeout=TICK_S))
            if time.monotonic() - looked < TICK_S:
                continue
            looked = time.monotonic()
            for job in [job for job in left if job.end_if_late()]:
                left.remove(job)
                _open_slot(waiting, ended)
    except KeyboardInterrupt:
        waiting.clear()
        for job in jobs:
            job.cancel()
        until = time.monotonic() + GRACE_S
        while any(job.is_running for job in jobs) and time.monotonic() < until:
            time.sleep(0.05)
        raise
    return FanOut(
        {job.task.host: job.value for job in jobs if job.error is None},  # type: ignore[misc]  # T may itself be None
        {job.task.host: job.error for job in jobs if job.error is not None},
    )


def _open_slot(waiting: deque[_Job[T]], ended: queue.SimpleQueue[_Job[T]]) -> None:
    """Start a thread that works on the waiting jobs, until there are none or one of them was late."""

    def work() -> None:
        is_late = False
        while not is_late:
            try:
                job = waiting.popleft()
            except IndexError:
                return
            is_late = job.work()
            ended.put(job)

    threading.Thread(target=work, daemon=True, name="firstlight-fan-out").start()


class _Job(Generic[T]):
    """A task with the result of its last attempt: a value or an error."""

    def __init__(self, task: Task[T]) -> None:
        self.task = task
        self.value: T | None = None
        self.error: BaseException | None = None
        self._started_at: float | None = None
        self._lock = threading.Lock()
        self._is_cancelled = threading.Event()

    def work(self) -> bool:
        """Call the task until it has a result that another attempt would not change. Return whether it missed its deadline."""
        for tries in itertools.count(1):
            self._started_at = time.monotonic()
            value: T | None = None
            error: BaseException | None = None
            try:
                value = self.task.call()
            except BaseException as failure:  # noqa: BLE001  # whatever it is, it is this host's outcome
                error = failure
            if not self._record(value, error):
                return True
            pause = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
            # A retry may help where the connection failed, not the key or the login.
            failed = isinstance(error, TransportError) and not isinstance(error, HostKeyError | AuthenticationError)
            if not failed or tries > self.task.retries or self._is_cancelled.wait(pause):
                break
        return False

    def _record(self, value: T | None, error: BaseException | None) -> bool:
        """Keep the result of the running attempt, and return True, unless it has one."""
        with self._lock:
            if self._started_at is None:
                return False
            self._started_at, self.value, self.error = None, value, error
            return True

    @property
    def is_running(self) -> bool:
        """Whether an attempt has begun and not ended."""
        return self._started_at is not None

    def end_if_late(self) -> bool:
        """Cancel the task where its attempt is beyond the deadline, and return whether it was."""
        started_at = self._started_at
        if started_at is None or time.monotonic() - started_at < self.task.deadline_s:
            return False
        late = TransportError(
            f"host {self.task.host} did not finish within {self.task.deadline_s:g} s",
            hint="see what it is busy with; the other hosts went on",
        )
        if not self._record(None, late):
            return False
        self._is_cancelled.set()
        self._call_cancel()
        return True

    def cancel(self) -> None:
        """End a running attempt from another thread, and make no further ones."""
        self._is_cancelled.set()
        if self.is_running:
            self._call_cancel()

    def _call_cancel(self) -> None:
        if self.task.cancel is not None:
            threading.Thread(target=self.task.cancel, daemon=True, name="firstlight-cancel").start()
