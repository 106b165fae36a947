"""Parallel work on many hosts: concurrency limit, deadlines, and retries of broken connections.

A slot is a thread that takes one task after the other. A pool of the standard library would not do: what no longer answers after
its deadline must neither keep another host waiting nor the program from ending, so its slot goes to a new thread. A task whose
connection failed keeps its slot for the next attempt, because the slowest host decides when a run ends.
"""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from provision.core.errors import HostKeyError, TransportError
from provision.core.grouping import quantile
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
    """Deadline of one attempt in seconds, from its dispatch."""
    retries: int = 2
    """Further attempts after a TransportError that a retry may cure."""
    cancel: Callable[[], None] | None = None
    """Called from another thread to end the task early: the session's `close`."""


@dataclass(frozen=True)
class TaskOutcome(Generic[T]):
    """Result of an attempt, the last one of a task: a value or an error. Times in seconds."""

    host: str
    value: T | None = None
    error: BaseException | None = None
    tries: int = 0
    wait_s: float = 0.0
    """Time that the attempt was ready while its slot was free."""
    run_s: float = 0.0
    queued_s: float = 0.0
    """Time from when the attempt was ready until it was dispatched, with the tasks before it in the queue."""

    def result(self) -> T:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # T may itself be None


@dataclass(frozen=True)
class FanOut(Generic[T]):
    """All results, by host in the order given."""

    outcomes: Mapping[str, TaskOutcome[T]]
    attempts: Sequence[TaskOutcome[T]]
    """All attempts, those before a retry too."""
    seconds: float

    @property
    def values(self) -> dict[str, T]:
        """Return values of successful tasks."""
        return {host: outcome.result() for host, outcome in self.outcomes.items() if outcome.error is None}

    @property
    def errors(self) -> dict[str, BaseException]:
        """Return errors of failed tasks."""
        return {host: outcome.error for host, outcome in self.outcomes.items() if outcome.error is not None}

    def figures(self) -> dict[str, float]:
        """Return figures of all attempts: their number, how many were retries, seconds, and percentiles of times in milliseconds."""
        found = {
            "tasks": len(self.attempts),
            "retries": sum(one.tries > 1 for one in self.attempts),
            "seconds": self.seconds,
        }
        for kind in ("wait", "queued", "run"):
            times = sorted(getattr(one, f"{kind}_s") for one in self.attempts)
            found |= {f"{kind}_p{percent}_ms": quantile(times, percent / 100) * 1000 for percent in (50, 99)}
        return found | {"tasks_per_s": len(self.attempts) / self.seconds if self.seconds else 0.0}


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
    started = looked = time.monotonic()
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
    outcomes = {job.task.host: job.attempts[-1] for job in jobs}
    return FanOut(outcomes, [one for job in jobs for one in job.attempts], time.monotonic() - started)


def _open_slot(waiting: deque[_Job[T]], ended: queue.SimpleQueue[_Job[T]]) -> None:
    """Start a thread that works on the waiting jobs, until there are none or one of them was late."""
    free_since = time.monotonic()

    def work() -> None:
        slot_at, is_late = free_since, False
        while not is_late:
            try:
                job = waiting.popleft()
            except IndexError:
                return
            is_late = job.work(slot_at)
            slot_at = time.monotonic()
            ended.put(job)

    threading.Thread(target=work, daemon=True, name="firstlight-fan-out").start()


class _Job(Generic[T]):
    """A task with its attempts; the last one is its result."""

    def __init__(self, task: Task[T]) -> None:
        self.task = task
        self.attempts: list[TaskOutcome[T]] = []
        self._ready_at = self._slot_at = time.monotonic()
        self._started_at: float | None = None
        self._lock = threading.Lock()
        self._is_cancelled = threading.Event()

    def work(self, slot_at: float) -> bool:
        """Call the task until it has a result that another attempt would not change. Return whether it missed its deadline."""
        self._slot_at = slot_at
        is_done = False
        while not is_done:
            self._started_at = time.monotonic()
            value: T | None = None
            error: BaseException | None = None
            try:
                value = self.task.call()
            except BaseException as failure:  # noqa: BLE001  # whatever it is, it is this host's outcome
                error = failure
            if not self._record(value, error):
                return True
            tries = len(self.attempts)
            pause = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
            self._ready_at = self._slot_at = time.monotonic() + pause
            # A retry may help where the connection failed, not the key or the login.
            failed = isinstance(error, TransportError) and not isinstance(error, HostKeyError | AuthenticationError)
            is_done = not failed or tries > self.task.retries or self._is_cancelled.wait(pause)
        return False

    def _record(self, value: T | None, error: BaseException | None) -> bool:
        """Keep the result of the running attempt, and return True, unless it has one."""
        with self._lock:
            if self._started_at is None:
                return False
            started_at, self._started_at = self._started_at, None
            self.attempts.append(
                TaskOutcome(
                    self.task.host,
                    value,
                    error,
                    tries=len(self.attempts) + 1,
                    wait_s=started_at - self._slot_at,
                    run_s=time.monotonic() - started_at,
                    queued_s=started_at - self._ready_at,
                )
            )
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
