"""Calls in child processes with a deadline each: a hang, an abort or a segfault ends one call, not the run.

A child is forked, so it shares the imports of its parent (0.04 s against 2.4 s for importing torch again). The parent must
not have used a device before: CUDA does not survive a fork.
"""

import ctypes
import faulthandler
import json
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, Generic, NoReturn, TypeVar

Key = TypeVar("Key")

TAIL_BYTES = 4000
"""Length of a child's output that is kept as evidence, from the end."""
POLL_S = 0.05
ENDED_POLL_S = 0.002
"""Used while a child that has answered is about to exit."""
KILLED_S = 5.0
"""A killed process is gone at once unless the kernel holds it; this limits the wait."""
PR_SET_PDEATHSIG = 1


SendMessage = Callable[[Any], None]
"""Sends a JSON value to the parent at once. The parent keeps it whatever happens to the child."""


@dataclass(frozen=True)
class Task(Generic[Key]):
    """One call; it returns a JSON value."""

    key: Key
    call: Callable[..., Any]
    deadline_s: float
    """Maximum duration; for a call that sends messages, the maximum time between two of them."""
    sends_messages: bool = False
    """Whether the call receives a `SendMessage`."""


@dataclass(frozen=True)
class ChildResult:
    """How a child ended: with a value, or with a problem that explains why there is none."""

    value: Any
    problem: str | None
    output: str
    """The end of its stdout and stderr."""
    seconds: float
    messages: tuple[Any, ...] = ()
    """The messages that it sent before it ended."""


def run_all(
    tasks: Iterable[Task[Key]],
    *,
    limit: int,
    after: Callable[[Key, ChildResult], Iterable[Task[Key]]] = lambda *_: (),
    begun: Callable[[Key], None] = lambda _: None,
    fits: Callable[[Key, Sequence[Key]], bool] = lambda *_: True,
) -> Iterator[tuple[Key, ChildResult]]:
    """Run tasks in order, and yield each result as it arrives. No child process outlives the call.

    At most `limit` run at once. `after` returns the tasks that may start because one ended; they start before those that wait.
    `fits` returns whether a task may start beside those that run; it must let each start alone.
    """
    waiting = list(tasks)
    running: list[_Child[Key]] = []
    try:
        while waiting or running:
            while len(running) < limit:
                beside = [child.task.key for child in running]
                if (task := next((task for task in waiting if fits(task.key, beside)), None)) is None:
                    break
                waiting.remove(task)
                running.append(_Child(task))
                begun(task.key)
            ended = any(child.closed for child in running)
            pipes = [child.pipe for child in running if not child.closed]
            select.select(pipes, [], [], ENDED_POLL_S if ended else POLL_S)
            for child in list(running):
                ending = child.poll()
                if ending is not None:
                    running.remove(child)
                    waiting[:0] = after(child.task.key, ending)
                    yield child.task.key, ending
    finally:
        for child in running:
            child.kill()


def run_one(call: Callable[..., Any], *, deadline_s: float, sends_messages: bool = False) -> ChildResult:
    """Run one call in a child process; see `Task`."""
    ((_, ending),) = run_all([Task("one", call, deadline_s, sends_messages=sends_messages)], limit=1)
    return ending


class _Child(Generic[Key]):
    def __init__(self, task: Task[Key]) -> None:
        self.task = task
        self.closed = False
        self._received = bytearray()
        self._messages: list[Any] = []
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
        self._started = self._heard = time.monotonic()
        self.pipe, write_end = os.pipe()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # otherwise the child writes the parent's buffer a second time
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _run_child(task, write_end, self._output.fileno(), parent)
        os.close(write_end)
        os.set_blocking(self.pipe, False)

    def poll(self) -> ChildResult | None:
        self._receive()
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        seconds = time.monotonic() - self._started
        if pid:
            self._end_group()
            self._receive()
            return self._end(*self._read_answer(os.waitstatus_to_exitcode(status)), seconds)
        if time.monotonic() - self._heard > self.task.deadline_s:
            stopped = "was stopped" if self._stop() else "cannot be killed: the kernel or a driver holds it"
            return self._end(None, f"did not finish within {self.task.deadline_s:g} s and {stopped}", seconds)
        return None

    def kill(self) -> None:
        self._stop()
        self._end(None, "stopped", 0.0)

    def _end_group(self) -> None:
        """Kill the processes that the child left behind."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)

    def _stop(self) -> bool:
        """Kill the child; return False if SIGKILL does not end it, for example because a driver holds it in the kernel."""
        self._end_group()
        with suppress(ProcessLookupError):  # the child may not have created its process group yet
            os.kill(self._pid, signal.SIGKILL)
        deadline = time.monotonic() + KILLED_S
        while not os.waitpid(self._pid, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                return False
            time.sleep(ENDED_POLL_S)
        return True

    def _receive(self) -> None:
        with suppress(BlockingIOError):
            while not self.closed:
                chunk = os.read(self.pipe, 65536)
                self._received += chunk
                self.closed = not chunk
        *lines, rest = self._received.split(b"\n")
        if lines:
            self._messages += map(json.loads, lines)
            self._received, self._heard = rest, time.monotonic()

    def _read_answer(self, code: int) -> tuple[Any, str | None]:
        if code < 0:
            return None, f"its process was ended by {signal.Signals(-code).name}"
        try:
            message = json.loads(self._received)
        except ValueError:
            return None, f"its process ended with exit code {code} and without a result"
        return message.get("value"), message.get("problem")

    def _end(self, value: Any, problem: str | None, seconds: float) -> ChildResult:
        self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, self._output.tell() - TAIL_BYTES))
        output = self._output.read().decode(errors="replace")
        self._output.close()
        os.close(self.pipe)
        return ChildResult(value, problem, output, seconds, tuple(self._messages))


def _run_child(task: Task[Any], answer: int, output: int, parent: int) -> NoReturn:
    """Run a task in the child. Never returns, and runs none of the parent's exit handlers."""
    code = 70
    try:
        os.setsid()
        end_with_parent(signal.SIGKILL)
        if os.getppid() != parent:  # it ended before
            os._exit(0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        # The parent may have replaced these streams. Its children must not close them.
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        faulthandler.enable(2)
        try:
            message = {"value": task.call(partial(_send, answer)) if task.sends_messages else task.call()}
        except BaseException as error:  # noqa: BLE001 - whatever it was, the parent reports it
            traceback.print_exc()
            message = {"problem": f"{type(error).__name__}: {error}"}
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        _send(answer, message, end="")
        code = 0
    finally:
        os._exit(code)


def _send(pipe: int, message: Any, end: str = "\n") -> None:
    """Write a message as a line; the final answer has no line end."""
    content = (json.dumps(message, default=str) + end).encode()
    while content:
        content = content[os.write(pipe, content) :]


def end_with_parent(number: signal.Signals) -> None:
    """Have Linux send this process a signal when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
