"""What all phases of a run share: hosts, connections and locks, the run's folder, progress, background tasks, results by host."""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any, Protocol, TypeVar

from provision.catalog.index.settings import BundledContent, ClientSettings
from provision.core import features
from provision.core.errors import Exit, FirstlightError, TransportError
from provision.core.files import write_atomically
from provision.core.json_text import indented
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host, Inventory
from provision.core.models.records import PhaseName, PhaseResult
from provision.core.redaction import redact, scrub
from provision.core.run_folder import RunFolder
from provision.fleet.locks import HostLock
from provision.fleet.ssh import FanOut, Session, Task, fan_out, open_session
from provision.fleet.ssh.dispatch import DEFAULT_LIMIT
from provision.phases.stage import Store
from provision.report.live import Progress
from provision.report.run_files import PHASES_FILE
from provision.run.results import ProbedHosts
from provision.run.step import Scope

IDLE_AT_MOST = 64
"""In a run with more hosts, connections that nobody uses are closed. Each open one takes a thread, a socket and about 0.3 MB."""
CLOSE_DEADLINE_S = 15.0


class HostSessions:
    """Sessions by host, each opened at first use, and locks by host. Thread-safe."""

    def __init__(self, run: RunFolder, *, hosts: int) -> None:
        """Open nothing yet; changes through the sessions are recorded in the run, which has a number of hosts."""
        self.locks: dict[str, HostLock] = {}
        """The lock of each host that no other run may change until this one ends, by its name."""
        self._run, self._rests = run, hosts > IDLE_AT_MOST
        self._sessions: dict[str, Session] = {}
        self._guard = RLock()

    def of(self, host: Host) -> Session:
        """Return the session of a host."""
        with self._guard:
            if host.name not in self._sessions:
                self._sessions[host.name] = open_session(host)
                self._sessions[host.name].record = self._run.change
            return self._sessions[host.name]

    def rest(self, host: Host) -> None:
        """Close the connection of a host that is not locked, where the run has more hosts than connections may stay open."""
        if self._rests and host.name not in self.locks:
            self.of(host).close()

    def forget(self, host: Host) -> None:
        """Close the session of a host that may have been restarted, which ended its lock too."""
        with self._guard:
            session, lock = self._sessions.pop(host.name, None), self.locks.pop(host.name, None)
        if session is not None:
            session.close()
        if lock is not None:
            lock.close()

    def close(self) -> None:
        """Release all locks and close all sessions, many at a time: a host that does not answer delays no other."""

        def close(name: str) -> None:
            if name in self.locks:
                self.locks[name].close()
            if name in self._sessions:
                self._sessions[name].close()

        names = dict.fromkeys((*self.locks, *self._sessions))
        fan_out([Task(name, partial(close, name), deadline_s=CLOSE_DEADLINE_S, retries=0) for name in names])


T = TypeVar("T")
StateT = TypeVar("StateT")


@dataclass(frozen=True)
class RunOptions:
    """The options of a command that its phases read."""

    command: str = ""
    """What the person typed after `./firstlight`."""
    limited: bool = False
    """Whether `--limit` may have left hosts of the inventory out."""
    find_gateways: Callable[[], Sequence[Host]] = tuple
    """Returns the gateways of the inventory, also those that `--limit` left out."""
    refresh: bool = False
    """Whether `stage` asks for newer releases."""
    client: ClientSettings | None = None
    """Index settings that `stage` uses instead of the user's."""

    @property
    def bundle(self) -> BundledContent | None:
        """The bundle from which everything comes."""
        return self.client.bundled if self.client else None


@dataclass(frozen=True)
class LeftOut:
    """Why runs leave a host out."""

    reason: str
    hint: str
    """What brings it back."""
    record: Mapping[str, Any]
    """What is kept of it, as `status --json` prints it."""


@dataclass
class Outcomes:
    """Mappings by host name, which phases add to."""

    results: dict[str, dict[PhaseName, PhaseResult]] = field(default_factory=dict)
    checks: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """The newest check document of each host."""
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    """Why this run leaves hosts out, or what its checks found that makes later runs leave them out."""
    removed: set[str] = field(default_factory=set)
    """Hosts that this run removed the product from."""
    entered: dict[PhaseName, float] = field(default_factory=dict)
    """Seconds from the start of the run to the start of a phase."""
    failures: set[Exit] = field(default_factory=set)
    """Exit codes of what failed so far."""


class BackgroundTask(Protocol):
    """Work on hosts that overlaps phases."""

    def wait(self) -> None:
        """Wait for its end, and record what failed."""

    def stop(self) -> None:
        """End it in order; do nothing when it has ended."""


@dataclass
class Background:
    """The background tasks of a run, or of one batch of it."""

    tasks: dict[str, BackgroundTask] = field(default_factory=dict)
    package_sources: dict[str, bool | None] | None = None
    """By host that lacks OS packages: whether its package sources answer, None where that is unknown. None before it was asked."""

    def wait_for(self, name: str) -> None:
        """Wait for a task, where it was started."""
        if name in self.tasks:
            self.tasks[name].wait()

    def stop(self) -> None:
        """End all tasks, so that sessions are free."""
        for task in reversed(self.tasks.values()):
            task.stop()


@dataclass
class RunContext:
    """One run: its hosts, its folder, and how each phase ended for each host."""

    run: RunFolder
    inventory: Inventory
    progress: Progress
    cache: Path
    options: RunOptions = field(default_factory=RunOptions)
    scope: Scope = "all"
    """The hosts of the step that runs."""
    batch: frozenset[str] | None = None
    """The hosts of the batch that runs; None outside of batches."""
    background: Background = field(default_factory=Background)
    result: ProbedHosts = field(default_factory=ProbedHosts)
    """What the last phase that came to its end handed on."""
    outcomes: Outcomes = field(default_factory=Outcomes)
    stack: ExitStack = field(default_factory=ExitStack)
    sessions: HostSessions = field(init=False)
    _states: dict[type, Any] = field(default_factory=dict)
    _store: Store | None = None
    _lock: RLock = field(default_factory=RLock)

    def __post_init__(self) -> None:
        self.sessions = HostSessions(self.run, hosts=len(self.inventory.hosts))
        self.stack.callback(self.sessions.close)

    def state(self, kind: type[StateT]) -> StateT:
        """Return what a feature keeps for this run: the one value of its own class, made without arguments when it is first asked for."""
        with self._lock:
            if kind not in self._states:
                self._states[kind] = kind()
            found: StateT = self._states[kind]
            return found

    def wheelhouse(self) -> Store:
        """Return the store of staged files on this machine, one for the run."""
        with self._lock:
            self._store = self._store or Store(self.cache)
            return self._store

    def use_store(self, store: Store) -> None:
        """Let the run stage its files in another store."""
        self._store = store

    def hosts(self) -> list[Host]:
        """Return the hosts of the step and its batch that no phase has failed for and that are not left out, in inventory order."""
        return [
            host
            for host in self.inventory.hosts
            if (host.is_provisioned or self.scope == "all")
            and (self.batch is None or host.name in self.batch)
            and not self.has_failed(host.name)
            and host.name not in self.outcomes.left_out
        ]

    def begin_batch(self, names: Sequence[str]) -> None:
        """Limit the steps that follow to some hosts; what was asked and sent for other hosts is over."""
        self.background.stop()
        self.batch, self.background = frozenset(names), Background()

    def host(self, name: str) -> Host:
        """Return a host of the run by its name."""
        return next(host for host in self.inventory.hosts if host.name == name)

    def has_failed(self, name: str) -> bool:
        """Return whether a phase failed for a host."""
        return any(result.has_failed for result in self.outcomes.results.get(name, {}).values())

    def session(self, host: Host) -> Session:
        """Return the session of a host; it is opened at first use and closed with the run."""
        return self.sessions.of(host)

    def start_background(self, name: str, task: BackgroundTask) -> None:
        """Keep a background task, which ends with the run at the latest."""
        self.background.tasks[name] = task
        self.stack.callback(task.stop)

    def record(self, result: PhaseResult) -> None:
        """Record how a phase ended for a host."""
        with self._lock:
            self.outcomes.results.setdefault(result.host, {})[result.phase] = result
            self.run.event("result", host=result.host, phase=result.phase, status=result.status, text=result.text)
        self.progress.finish(result.host, result)

    def write_results(self) -> None:
        """Write how each phase ended for each host to phases.json, which is done after each phase; events.jsonl has every result at once."""
        with self._lock:
            # Of a whole document, the name of a host would be taken for a key that may name a secret.
            shown = {
                redact(host): {phase: scrub(result.model_dump(mode="json")) for phase, result in by_phase.items()}
                for host, by_phase in self.outcomes.results.items()
            }
            if shown:
                write_atomically(self.run.path(PHASES_FILE), indented(shown) + "\n", durable=False)

    def fail(self, host: str, phase: PhaseName, error: BaseException, seconds: float = 0.0) -> None:
        """Record a failure; an unexpected error keeps its type in the text, and its trace in the events."""
        if not isinstance(error, FirstlightError):
            self.run.event("trace", host=host, phase=phase, trace=traceback.format_exception(error))
            error = FirstlightError(f"{type(error).__name__}: {error}", hint="the run's events.jsonl holds the trace")
        self.outcomes.failures.add(error.exit_code)
        self.record(
            PhaseResult(
                host=host,
                phase=phase,
                status="unreachable" if isinstance(error, TransportError) else "failed",
                seconds=round(seconds, 3),
                text=error.text,
                hint=error.hint,
                cause=error.cause,
            )
        )

    def reject(self, result: PhaseResult) -> None:
        """Record a result that excludes a host from the rest of the run and makes the run red."""
        self.outcomes.failures.add(Exit.RED)
        self.record(result)

    def call_for_hosts(self, phase: PhaseName, call: Callable[[Host], T | None]) -> dict[str, T]:
        """Call a function for one host after another; record failures and return the values by host, without None."""
        found = {}
        for host in self.hosts():
            try:
                if (value := call(host)) is not None:
                    found[host.name] = value
            except FirstlightError as error:
                self.fail(host.name, phase, error)
        return found

    def run_on_hosts(
        self,
        phase: PhaseName,
        hosts: Sequence[Host],
        call: Callable[[Host], T],
        *,
        deadline_s: float,
        cancel: Callable[[Host], None] | None = None,
        lasts: bool = False,
    ) -> dict[str, T]:
        """Call a function for all hosts in parallel; record failures and return the values of the others by host.

        Args:
            deadline_s: Seconds after which a host counts as failed.
            cancel: Ends the work on a host from another thread; closing its session is enough where nothing else is waited for.
            lasts: Whether it is work of hours, where no host waits for another.
        """
        if not hosts:
            return {}
        started = time.monotonic()
        limit = len(hosts) if lasts else DEFAULT_LIMIT
        done = self.ask_hosts(hosts, call, deadline_s=deadline_s, cancel=cancel, limit=limit)
        for name, error in done.errors.items():
            self.fail(name, phase, error, time.monotonic() - started)
        return done.values

    def ask_hosts(
        self,
        hosts: Sequence[Host],
        call: Callable[[Host], T],
        *,
        deadline_s: float,
        cancel: Callable[[Host], None] | None = None,
        retries: int = 2,
        limit: int = DEFAULT_LIMIT,
    ) -> FanOut[T]:
        """Call a function for hosts in parallel, and record nothing of it.

        Args:
            deadline_s: Seconds after which a host counts as failed.
            cancel: As in `run_on_hosts`.
            retries: Further attempts where a connection broke.
            limit: Hosts that are worked on at once.
        """

        def call_and_rest(host: Host) -> T:
            try:
                return call(host)
            finally:
                self.sessions.rest(host)

        tasks = [
            Task(
                host=host.name,
                call=partial(call_and_rest, host),
                deadline_s=deadline_s,
                retries=retries,
                cancel=partial(cancel, host) if cancel else self.session(host).close,
            )
            for host in hosts
        ]
        return fan_out(tasks, limit=limit)

    def add_note(self, host: str, *notes: str) -> None:
        """Add to what the summary says of the service of a host, where something was recorded of it."""
        result = self.outcomes.results.get(host, {}).get("serve")
        if result is not None:
            self.record(result.model_copy(update={"notes": (*result.notes, *notes)}))

    @contextmanager
    def timed(self, phase: PhaseName) -> Iterator[None]:
        """Measure a phase, and write its seconds to the run's events."""
        started = time.monotonic()
        self.outcomes.entered[phase] = self.run.seconds
        self.run.event("enter", phase=phase)
        for host in self.hosts():
            self.progress.phase(host.name, phase)
        try:
            yield
        finally:
            self.write_results()
            self.run.event("phase", phase=phase, seconds=round(time.monotonic() - started, 3))


def left_out(logs: Path, host: Host, facts: HostFacts | None = None) -> LeftOut | None:
    """Return why runs leave a host out; None where they do not. Without facts of a probe, only what this controller keeps of it counts."""
    found: LeftOut | None = features.first("left_out", logs, host, facts)
    return found
