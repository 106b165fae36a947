"""What all phases of a run share: hosts, sessions, the run's folder, progress, background tasks, results by host."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from provision.core.errors import Exit, FirstlightError, TransportError
from provision.core.models.inventory import Host, Inventory
from provision.core.models.records import PhaseResult
from provision.core.models.transfers import Transfers
from provision.core.run_folder import RunFolder
from provision.fleet.locks import HostLock
from provision.fleet.sources.bandwidth import Bandwidth
from provision.fleet.ssh import Session, Task, fan_out, open_session
from provision.fleet.ssh.recorded import RecordedSession
from provision.phases.stage import Store
from provision.pipeline.phase_results import PhaseResultsFile
from provision.pipeline.results import ProbedHosts
from provision.report.live import Progress

if TYPE_CHECKING:
    from provision.catalog.index.settings import ClientSettings
    from provision.core.models.facts import HostFacts
    from provision.core.models.phase_names import PhaseName
    from provision.core.models.staged import StagedFile
    from provision.phases.install.target import Target
    from provision.phases.stage.bundle import RecordingStore
    from provision.pipeline.left_out import LeftOut
    from provision.pipeline.step import Scope

T = TypeVar("T")
StateT = TypeVar("StateT")

IDLE_AT_MOST = 64
"""In a run with more hosts, connections that nobody uses are closed. Each open one takes a thread, a socket and about 0.3 MB."""
CLOSE_DEADLINE_S = 15.0


class BackgroundTask(Protocol):
    """Work on hosts that overlaps phases."""

    def wait(self) -> None:
        """Wait for its end, and record what failed."""

    def stop(self) -> None:
        """End it in order; do nothing when it has ended."""


class FileListener(Protocol):
    """Receives each file as soon as `stage` has it."""

    def callback(self, hosts: Sequence[Host]) -> Callable[[StagedFile, int], None] | None:
        """Return what to call with a file for these hosts, and the bytes of all files; None where nobody waits for them."""


@dataclass
class RunContext:
    """One run: its hosts, its folder, and how each phase ended for each host."""

    run: RunFolder
    inventory: Inventory
    progress: Progress
    cache: Path
    command: str = ""
    """What the person typed after `./firstlight`."""
    limited: bool = False
    """Whether `--limit` may have left hosts of the inventory out."""
    find_gateways: Callable[[], Sequence[Host]] = tuple
    """Returns the gateways of the inventory, also those that `--limit` left out."""
    scope: Scope = "all"
    """The hosts of the step that runs."""
    batch: frozenset[str] | None = None
    """The hosts of the batch that runs; None outside of batches."""
    refresh: bool = False
    client: ClientSettings | None = None
    """Index settings that `stage` uses instead of the user's."""
    older_bundle: bool = False
    """Whether their bundle may be older than the last one of a host."""
    recording_store: RecordingStore | None = None
    """The file store of a run that makes a bundle."""
    package_sources: dict[str, bool | None] | None = None
    """By host that lacks OS packages: whether its package sources answer, None where that is unknown. None before it was asked."""
    background: dict[str, BackgroundTask] = field(default_factory=dict)
    file_listener: FileListener | None = None
    result: ProbedHosts = field(default_factory=ProbedHosts)
    """What the last phase that came to its end handed on."""
    results: dict[str, dict[PhaseName, PhaseResult]] = field(default_factory=dict)
    locks: dict[str, HostLock] = field(default_factory=dict)
    """The lock that the run has on each host, by its name."""
    locked: set[str] = field(default_factory=set)
    """Hosts that no other run may change until this one ends."""
    targets: dict[str, Target] = field(default_factory=dict)
    """Variables that playbooks of the installation got for each host, by its name."""
    checked: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """The newest check document of each host in this run, by its name."""
    written_facts: dict[str, HostFacts] = field(default_factory=dict)
    """The newest facts of each host, by its name, as the run's folder has them."""
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    """Why this run leaves hosts out, or what its checks found that makes later runs leave them out."""
    removed: set[str] = field(default_factory=set)
    """Hosts that this run removed the product from."""
    first: set[str] = field(default_factory=set)
    """Hosts that failed in the run before: they start first, since they decide when this run ends."""
    entered: dict[PhaseName, float] = field(default_factory=dict)
    """Seconds from the start of the run to the start of a phase."""
    transfers: Transfers = field(default_factory=Transfers)
    bandwidth: Bandwidth = field(default_factory=Bandwidth)
    failures: set[Exit] = field(default_factory=set)
    """Exit codes of what failed so far."""
    stack: ExitStack = field(default_factory=ExitStack)
    _states: dict[type, Any] = field(default_factory=dict)
    _sessions: dict[str, Session] = field(default_factory=dict)
    _store: Store | None = None
    _lock: RLock = field(default_factory=RLock)
    _results_file: PhaseResultsFile = field(init=False)

    def __post_init__(self) -> None:
        self._results_file = PhaseResultsFile(self.run)
        self.stack.callback(self._close_sessions)

    def state(self, kind: type[StateT]) -> StateT:
        """Return what a feature keeps for this run: the one value of its own class, made without arguments when it is first asked for."""
        with self._lock:
            if kind not in self._states:
                self._states[kind] = kind()
            found: StateT = self._states[kind]
            return found

    def wheelhouse(self) -> Store:
        """Return the store of staged files on this machine, one for the run."""
        if self.recording_store is not None:
            return self.recording_store
        with self._lock:
            self._store = self._store or Store(self.cache)
            return self._store

    def hosts(self) -> list[Host]:
        """Return the hosts of the step and its batch that no phase has failed for and that are not left out, in inventory order."""
        return [
            host
            for host in self.inventory.hosts
            if (host.is_provisioned or self.scope == "all")
            and (self.batch is None or host.name in self.batch)
            and not self.has_failed(host.name)
            and host.name not in self.left_out
        ]

    def begin_batch(self, names: Sequence[str]) -> None:
        """Limit the steps that follow to some hosts; what was asked and sent for other hosts is over."""
        self.stop_background()
        self.background.clear()
        self.batch, self.package_sources, self.file_listener = frozenset(names), None, None

    def host(self, name: str) -> Host:
        """Return a host of the run by its name."""
        return next(host for host in self.inventory.hosts if host.name == name)

    def has_failed(self, name: str) -> bool:
        """Return whether a phase failed for a host."""
        return any(result.has_failed for result in self.results.get(name, {}).values())

    def session(self, host: Host) -> Session:
        """Return the session of a host; it is opened at first use and closed with the run."""
        with self._lock:
            if host.name not in self._sessions:
                session = RecordedSession(open_session(host), self.run.change)
                self._sessions[host.name] = session
            return self._sessions[host.name]

    def _close_sessions(self) -> None:
        """Release all locks and close all sessions, many at a time: a host that does not answer delays no other."""

        def close(name: str) -> None:
            if name in self.locks:
                self.locks[name].close()
            if name in self._sessions:
                self._sessions[name].close()

        names = dict.fromkeys((*self.locks, *self._sessions))
        fan_out([Task(name, partial(close, name), deadline_s=CLOSE_DEADLINE_S, retries=0) for name in names])

    def _rest(self, host: Host) -> None:
        """Close an idle connection where the run has more hosts than connections may stay open."""
        if len(self.inventory.hosts) > IDLE_AT_MOST:
            self.session(host).rest()

    def start_background(self, name: str, task: BackgroundTask) -> None:
        """Keep a background task, which ends with the run at the latest."""
        self.background[name] = task
        self.stack.callback(task.stop)

    def wait_for(self, name: str) -> None:
        """Wait for a background task, where it was started."""
        if name in self.background:
            self.background[name].wait()

    def stop_background(self) -> None:
        """End all background tasks, so that sessions are free."""
        for task in reversed(self.background.values()):
            task.stop()

    def forget(self, host: Host) -> None:
        """Close the session of a host that may have been restarted, which ended its lock too."""
        with self._lock:
            session = self._sessions.pop(host.name, None)
            lock = self.locks.pop(host.name, None)
            self.locked.discard(host.name)
        if session is not None:
            session.close()
        if lock is not None:
            lock.close()

    def record(self, result: PhaseResult) -> None:
        """Record how a phase ended for a host."""
        with self._lock:
            self.results.setdefault(result.host, {})[result.phase] = result
            self._results_file.put(result)
            self.run.event("result", host=result.host, phase=result.phase, status=result.status, text=result.text)
        self.progress.finish(result.host, result)

    def write_results(self) -> None:
        """Write what was recorded to the run's folder, where it is not there yet."""
        with self._lock:
            self._results_file.write()

    def count_bytes(
        self, controller: int, peers: int = 0, *, to: str | None = None, refused: str | None = None
    ) -> None:
        """Add to the bytes that hosts were sent.

        Args:
            controller: Bytes that the controller sent.
            peers: Bytes that a host sent.
            to: The host that got them from another one.
            refused: A host that another one did not serve.
        """
        self._add_to_transfers(
            {"controller": controller, "peers": peers}, {"from_peers": to if peers else None, "refused": refused}
        )

    def count_own_bytes(self, host: int, path: int, *, short: str | None = None) -> None:
        """Add to the bytes that hosts got by themselves.

        Args:
            host: Bytes from an index or a hub.
            path: Bytes from a folder.
            short: A host whose source did not give all.
        """
        self._add_to_transfers({"host": host, "path": path}, {"short": short})

    def _add_to_transfers(self, counts: Mapping[str, int], hosts: Mapping[str, str | None]) -> None:
        with self._lock:
            seen = self.transfers
            sums = {name: getattr(seen, name) + count for name, count in counts.items()}
            lists = {
                name: tuple(dict.fromkeys(filter(None, (*getattr(seen, name), host)))) for name, host in hosts.items()
            }
            self.transfers = seen.model_copy(update={**sums, **lists})

    def fail(self, host: str, phase: PhaseName, error: BaseException, seconds: float = 0.0) -> None:
        """Record a failure; an unexpected error keeps its type in the text, and its trace in the events."""
        cause = None
        if isinstance(error, FirstlightError):
            text, hint, cause = error.text, error.hint, error.cause
            self.failures.add(error.exit_code)
        else:
            self.failures.add(Exit.RED)
            text, hint = f"{type(error).__name__}: {error}", "the run's events.jsonl holds the trace"
            self.run.event("trace", host=host, phase=phase, trace=_trace(error))
        status: Literal["unreachable", "failed"] = "unreachable" if isinstance(error, TransportError) else "failed"
        self.record(
            PhaseResult(
                host=host, phase=phase, status=status, seconds=round(seconds, 3), text=text, hint=hint, cause=cause
            )
        )

    def reject(self, result: PhaseResult) -> None:
        """Record a result that excludes a host from the rest of the run and makes the run red."""
        self.failures.add(Exit.RED)
        self.record(result)

    def run_on_hosts(
        self,
        phase: PhaseName,
        hosts: Sequence[Host],
        call: Callable[[Host], T],
        *,
        deadline_s: float,
        cancel: Callable[[Host], None] | None = None,
    ) -> dict[str, T]:
        """Call a function for all hosts in parallel; record failures and return the values of the others by host.

        Args:
            phase: The phase that failures are recorded under.
            hosts: The hosts to call the function for.
            call: The function; it gets the host.
            deadline_s: Seconds after which a host counts as failed.
            cancel: Ends the work on a host from another thread; closing its session is enough where nothing else is waited for.
        """
        if not hosts:
            return {}
        started = time.monotonic()

        def call_and_rest(host: Host) -> T:
            try:
                return call(host)
            finally:
                self._rest(host)

        tasks = [
            Task(
                host=host.name,
                call=partial(call_and_rest, host),
                deadline_s=deadline_s,
                priority=int(host.name in self.first),
                cancel=partial(cancel, host) if cancel else self.session(host).close,
            )
            for host in hosts
        ]
        done = fan_out(tasks)
        for name, outcome in done.outcomes.items():
            if outcome.error is not None:
                self.fail(name, phase, outcome.error, time.monotonic() - started)
        if phase == "probe":
            self.run.write("dispatch.json", asdict(done.stats))
        return done.values

    @contextmanager
    def timed(self, phase: PhaseName) -> Iterator[None]:
        """Measure a phase, and write its seconds to the run's events."""
        started = time.monotonic()
        self.entered[phase] = self.run.seconds
        self.run.event("enter", phase=phase)
        for host in self.hosts():
            self.progress.phase(host.name, phase)
        try:
            yield
        finally:
            self.write_results()
            self.run.event("phase", phase=phase, seconds=round(time.monotonic() - started, 3))


def _trace(error: BaseException) -> list[str]:
    return traceback.format_exception(error)
