"""Parallel work on many hosts: concurrency limit, deadlines, and retries of broken connections.

Each task has a thread of its own. A pool's threads would not do: what no longer answers after its deadline must neither keep
another host waiting nor the program from ending. A task whose connection failed keeps its slot for the next attempt, because
the slowest host decides when a run ends.
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
    started = time.monotonic()
    ended: queue.SimpleQueue[_Job[T]] = queue.SimpleQueue()
    jobs = [_Job(task, ended) for task in tasks]
    waiting = deque(jobs)
    running: set[_Job[T]] = set()
    try:
        while waiting or running:
            while waiting and len(running) < max(1, limit):
                running.add(waiting[0])
                waiting.popleft().start()
            with contextlib.suppress(queue.Empty):
                running.discard(ended.get(timeout=TICK_S))
            running = {job for job in running if not job.end_if_late()}
    except KeyboardInterrupt:
        for job in jobs:
            job.cancel()
        until = time.monotonic() + GRACE_S
        while any(job.is_running for job in jobs) and time.monotonic() < until:
            time.sleep(0.05)
        raise
    outcomes = {job.task.host: job.attempts[-1] for job in jobs}
    return FanOut(outcomes, [one for job in jobs for one in job.attempts], time.monotonic() - started)


class _Job(Generic[T]):
    """A task with its attempts; the last one is its result."""

    def __init__(self, task: Task[T], ended: queue.SimpleQueue[_Job[T]]) -> None:
        self.task = task
        self.attempts: list[TaskOutcome[T]] = []
        self._ended = ended
        self._ready_at = self._slot_at = time.monotonic()
        self._started_at: float | None = None
        self._lock = threading.Lock()
        self._is_cancelled = threading.Event()

    def start(self) -> None:
        """Work on the task in a thread, which gives the job to the queue of ended ones."""
        self._slot_at = time.monotonic()
        threading.Thread(target=self._work, daemon=True, name="firstlight-fan-out").start()

    def _work(self) -> None:
        """Call the task until it has a result that another attempt would not change."""
        is_done = False
        while not is_done:
            self._started_at = time.monotonic()
            value: T | None = None
            error: BaseException | None = None
            try:
                value = self.task.call()
            except BaseException as failure:  # noqa: BLE001  # whatever it is, it is this host's outcome
                error = failure
            self._record(value, error)
            tries = len(self.attempts)
            pause = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
            self._ready_at = self._slot_at = time.monotonic() + pause
            # A retry may help where the connection failed, not the key or the login.
            failed = isinstance(error, TransportError) and not isinstance(error, HostKeyError | AuthenticationError)
            is_done = not failed or tries > self.task.retries or self._is_cancelled.wait(pause)
        self._ended.put(self)

    def _record(self, value: T | None, error: BaseException | None) -> None:
        """Keep the result of the running attempt, unless it missed its deadline before."""
        with self._lock:
            if self._started_at is None:
                return
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
        self._is_cancelled.set()
        self._record(None, late)
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
