"""Parallel work on many hosts: concurrency limit, priorities, deadlines, and retries of broken connections.

A task whose connection failed frees its slot while it waits for the next attempt and then goes first, because the slowest
host decides when a run ends. The waiting time of tasks is recorded.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from provision.core.errors import HostKeyError, TransportError
from provision.core.quantile import quantile
from provision.fleet.ssh.errors import AuthenticationError

T = TypeVar("T")

FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 8.0
DEFAULT_LIMIT = 32
"""Default number of hosts worked on at once."""
GRACE_S = 5.0
"""Time that cancelled tasks get to end."""
TICK_S = 0.25
_RETRIED_FIRST = 1_000_000


@dataclass(frozen=True)
class Task(Generic[T]):
    """Work on one host. Higher priorities go first; equal ones in the order given."""

    host: str
    call: Callable[[], T]
    priority: int = 0
    deadline_s: float = 600.0
    """Deadline of one attempt in seconds, from its dispatch."""
    retries: int = 2
    """Further attempts after a TransportError that a retry may cure."""
    cancel: Callable[[], None] | None = None
    """Called from another thread to end the task early: the session's `close`."""


@dataclass(frozen=True)
class TaskOutcome(Generic[T]):
    """Result of a task: a value or an error. Times in seconds."""

    host: str
    value: T | None = None
    error: BaseException | None = None
    tries: int = 0
    wait_s: float = 0.0
    """Time that the last attempt was ready while its slot was free."""
    run_s: float = 0.0
    queued_s: float = 0.0
    """Time from when the last attempt was ready until it was dispatched, with the tasks before it in the queue."""

    def result(self) -> T:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # T may itself be None


@dataclass(frozen=True)
class FanOutStats:
    """Figures over all attempts."""

    tasks: int
    retries: int
    """Attempts after the first one of a task."""
    seconds: float
    wait_p50_ms: float
    """Of the time that a ready attempt waited while its slot was free."""
    wait_p99_ms: float
    queued_p50_ms: float
    """Of the time from ready until dispatched, with the tasks before it in the queue."""
    queued_p99_ms: float
    run_p50_ms: float
    run_p99_ms: float
    tasks_per_s: float


@dataclass(frozen=True)
class FanOut(Generic[T]):
    """All results, by host in the order given, and the figures."""

    outcomes: Mapping[str, TaskOutcome[T]]
    stats: FanOutStats

    @property
    def values(self) -> dict[str, T]:
        """Return values of successful tasks."""
        return {host: outcome.result() for host, outcome in self.outcomes.items() if outcome.error is None}

    @property
    def errors(self) -> dict[str, BaseException]:
        """Return errors of failed tasks."""
        return {host: outcome.error for host, outcome in self.outcomes.items() if outcome.error is not None}


class Cancelled(Exception):  # noqa: N818  # not an error of the task
    """The run was interrupted before the task ended."""


class FanOutInterrupted(KeyboardInterrupt):
    """Ctrl-C; `fan_out` has finished results, and Cancelled for the rest."""

    def __init__(self, fan_out: FanOut[Any]) -> None:
        super().__init__("interrupted")
        self.fan_out = fan_out


def fan_out(tasks: Sequence[Task[T]], *, limit: int = DEFAULT_LIMIT) -> FanOut[T]:
    """Run all tasks and return when each has a result. Errors of tasks are results.

    Args:
        tasks: Tasks, at most one a host.
        limit: Maximum number of tasks at once.

    Raises:
        FanOutInterrupted: Ctrl-C; waiting tasks were dropped and running ones cancelled.
        ValueError: Two tasks name the same host.
    """
    if len({task.host for task in tasks}) != len(tasks):
        raise ValueError("two tasks name the same host")
    pool = _Pool(tasks, limit)
    try:
        pool.work()
    except KeyboardInterrupt:
        pool.interrupt()
        raise FanOutInterrupted(pool.result()) from None
    return pool.result()


@dataclass(slots=True)
class _Attempt(Generic[T]):
    """One attempt of a task, with its position in the queue."""

    task: Task[T]
    place: int
    number: int = 1
    ready_at: float = 0.0
    dispatched_at: float = 0.0
    wait_s: float = 0.0

    @property
    def queued_s(self) -> float:
        return self.dispatched_at - self.ready_at

    @property
    def rank(self) -> tuple[int, int]:
        first = _RETRIED_FIRST if self.number > 1 else 0
        return (-first - self.task.priority, self.place)


@dataclass(slots=True)
class _Figures:
    waits: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    retries: int = 0
    runs: list[float] = field(default_factory=list)


class _Pool(Generic[T]):
    """Queue and workers, behind one lock."""

    def __init__(self, tasks: Sequence[Task[T]], limit: int) -> None:
        self._tasks = tasks
        self._changed = threading.Condition()
        self._started = time.monotonic()
        self._ready: list[tuple[tuple[int, int], _Attempt[T]]] = []
        self._later: list[tuple[float, int, _Attempt[T]]] = []
        self._running: dict[int, _Attempt[T]] = {}
        self._outcomes: dict[str, TaskOutcome[T]] = {}
        self._figures = _Figures()
        self._stopping = False
        self._limit = max(1, min(limit, len(tasks)))
        for place, task in enumerate(tasks):
            self._queue(_Attempt(task, place, ready_at=self._started))

    def _queue(self, attempt: _Attempt[T]) -> None:
        heapq.heappush(self._ready, (attempt.rank, attempt))

    def work(self) -> None:
        """Start the workers and check deadlines until every task has a result."""
        for _ in range(self._limit if self._tasks else 0):
            self._start_worker()
        with self._changed:
            while len(self._outcomes) < len(self._tasks):
                self._changed.wait(self._until_next())
                self._wake_later()
                self._expire()

    def _start_worker(self) -> None:
        threading.Thread(target=self._work_off, daemon=True, name="firstlight-fan-out").start()

    def _until_next(self) -> float:
        """Return the seconds until the next deadline, retry or check for Ctrl-C."""
        moments = [attempt.dispatched_at + attempt.task.deadline_s for attempt in self._running.values()]
        moments += [self._later[0][0]] if self._later else []
        # a signal just before the wait is only noticed after it
        return max(0.0, min([TICK_S, *(moment - time.monotonic() for moment in moments)]))

    def _wake_later(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._queue(heapq.heappop(self._later)[2])
            self._changed.notify_all()

    def _expire(self) -> None:
        """Abandon attempts beyond their deadline: cancel their threads and start new workers."""
        now = time.monotonic()
        for place, attempt in list(self._running.items()):
            if now - attempt.dispatched_at < attempt.task.deadline_s:
                continue
            del self._running[place]
            error = TransportError(
                f"host {attempt.task.host} did not finish within {attempt.task.deadline_s:g} s",
                hint="see what it is busy with; the other hosts went on",
            )
            self._record(attempt, None, error, now)
            _cancel(attempt.task)
            self._start_worker()

    def _work_off(self) -> None:
        """Worker: run the first queued attempt and record its result."""
        free_at = self._started
        while True:
            with self._changed:
                while not self._ready and not self._finished():
                    self._changed.wait()
                if self._finished():
                    return
                _, attempt = heapq.heappop(self._ready)
                attempt.dispatched_at = time.monotonic()
                attempt.wait_s = attempt.dispatched_at - max(free_at, attempt.ready_at)
                self._running[attempt.place] = attempt
                # the main thread must learn about this deadline
                self._changed.notify_all()
            value: T | None
            value, error = _attempt(attempt.task.call)
            with self._changed:
                if self._running.get(attempt.place) is not attempt:
                    return  # abandoned: another worker has this slot
                free_at = time.monotonic()
                del self._running[attempt.place]
                self._finish(attempt, value, error, free_at)
                self._changed.notify_all()

    def _finished(self) -> bool:
        return self._stopping or len(self._outcomes) == len(self._tasks)

    def _finish(self, attempt: _Attempt[T], value: T | None, error: BaseException | None, now: float) -> None:
        if error is None or not _is_retryable(error) or attempt.number > attempt.task.retries or self._stopping:
            self._record(attempt, value, error, now)
            return
        self._record_times(attempt, now)
        pause = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (attempt.number - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
        again = _Attempt(attempt.task, attempt.place, attempt.number + 1, ready_at=now + pause)
        heapq.heappush(self._later, (again.ready_at, again.place, again))

    def _record_times(self, attempt: _Attempt[T], now: float) -> None:
        self._figures.waits.append(attempt.wait_s)
        self._figures.queued.append(attempt.queued_s)
        self._figures.retries += attempt.number > 1
        self._figures.runs.append(now - attempt.dispatched_at)

    def _record(self, attempt: _Attempt[T], value: T | None, error: BaseException | None, now: float) -> None:
        self._record_times(attempt, now)
        self._outcomes[attempt.task.host] = TaskOutcome(
            attempt.task.host,
            value,
            error,
            attempt.number,
            attempt.wait_s,
            now - attempt.dispatched_at,
            attempt.queued_s,
        )

    def interrupt(self) -> None:
        """Drop waiting tasks, cancel running ones, and wait briefly for them."""
        with self._changed:
            self._stopping = True
            self._ready.clear()
            self._later.clear()
            running = list(self._running.values())
            self._changed.notify_all()
        for attempt in running:
            _cancel(attempt.task)
        with self._changed:
            self._changed.wait_for(lambda: not self._running, timeout=GRACE_S)
            for task in self._tasks:
                if task.host not in self._outcomes:
                    self._outcomes[task.host] = TaskOutcome(
                        task.host, error=Cancelled(f"host {task.host}: interrupted")
                    )

    def result(self) -> FanOut[T]:
        """Return results in the order of the tasks, and the figures."""
        with self._changed:
            outcomes = {task.host: self._outcomes[task.host] for task in self._tasks}
            seconds = time.monotonic() - self._started
            waits, runs, queued = (
                sorted(each) for each in (self._figures.waits, self._figures.runs, self._figures.queued)
            )
            retries = self._figures.retries
        return FanOut(
            outcomes,
            FanOutStats(
                tasks=len(waits),
                retries=retries,
                seconds=seconds,
                wait_p50_ms=quantile(waits, 0.5) * 1000,
                wait_p99_ms=quantile(waits, 0.99) * 1000,
                queued_p50_ms=quantile(queued, 0.5) * 1000,
                queued_p99_ms=quantile(queued, 0.99) * 1000,
                run_p50_ms=quantile(runs, 0.5) * 1000,
                run_p99_ms=quantile(runs, 0.99) * 1000,
                tasks_per_s=len(waits) / seconds if seconds else 0.0,
            ),
        )


def _attempt(call: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    try:
        return call(), None
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is this host's outcome
        return None, error


def _is_retryable(error: BaseException) -> bool:
    """Return whether a retry may help: the connection failed, not the key or the login."""
    return isinstance(error, TransportError) and not isinstance(error, HostKeyError | AuthenticationError)


def _cancel(task: Task[T]) -> None:
    if task.cancel is not None:
        threading.Thread(target=task.cancel, daemon=True, name="firstlight-cancel").start()
