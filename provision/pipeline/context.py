"""What a run knows so far. Phases read it and add to it; the pipeline decides who goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from provision.core.errors import Exit, FirstlightError, TransportError
from provision.core.install_paths import InstallPaths
from provision.core.models.facts import HostFacts
from provision.core.models.records import PhaseName, PhaseResult
from provision.core.models.settings import Host, Inventory
from provision.core.models.stack import Plan
from provision.core.models.staged import Staged, StagedFile
from provision.core.run_folder import RunFolder
from provision.fleet.ssh import Session, Task, fan_out, open_session
from provision.fleet.ssh.recorded import RecordedSession
from provision.pipeline.phase_results import PhaseResultsFile
from provision.report.live import Progress

if TYPE_CHECKING:
    from provision.catalog.index.settings import ClientSettings
    from provision.phases.stage import Store
    from provision.phases.stage.bundle import RecordingStore
    from provision.pipeline.desired_state import Desired

T = TypeVar("T")


class Beside(Protocol):
    """Work on hosts that goes on beside the phases."""

    def stop(self) -> None:
        """End it in order; harmless when it has ended."""


class Early(Beside, Protocol):
    """OS packages that are being installed."""

    def join(self) -> None:
        """Wait for it, and record what failed."""


class Ahead(Beside, Protocol):
    """Files that are being sent while others are fetched."""

    def arrived(self, hosts: Sequence[Host]) -> Callable[[StagedFile, int], None] | None:
        """What is to be told of each file for these hosts, and of the bytes of all files."""

    def finish(self) -> None:
        """Wait until what is known so far was sent."""


@dataclass
class RunContext:
    """One run: hosts, and what each phase found out."""

    run: RunFolder
    inventory: Inventory
    progress: Progress
    cache: Path
    command: str = ""
    """What the person typed after `./firstlight`."""
    while_waiting: Callable[[], None] | None = None
    """What this machine does while it waits for hosts to answer the probe."""
    refresh: bool = False
    client: ClientSettings | None = None
    """Where stage gets files from, when not from where the user's settings say."""
    recording_store: RecordingStore | None = None
    """The wheelhouse of a run that makes a bundle."""
    facts: dict[str, HostFacts] = field(default_factory=dict)
    install_paths: dict[str, InstallPaths] = field(default_factory=dict)
    plan: Plan | None = None
    sources: dict[str, bool | None] = field(default_factory=dict)
    """Of hosts that lack OS packages: whether their own package sources answer; null when nobody can tell."""
    early: Early | None = None
    ahead: Ahead | None = None
    driver_changed: set[str] = field(default_factory=set)
    """Hosts whose drivers changed in this run."""
    verified: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Documents of the checks that ran in this run."""
    staged: dict[str, Staged] = field(default_factory=dict)
    desired: dict[str, Desired] = field(default_factory=dict)
    up_to_date: set[str] = field(default_factory=set)
    """Hosts whose probe showed the desired state: nothing is done to them."""
    results: dict[str, dict[PhaseName, PhaseResult]] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    """Hosts that this run took the product off."""
    first: set[str] = field(default_factory=set)
    """Hosts that failed in the run before: they go first, since they decide when this one ends."""
    entered: dict[PhaseName, float] = field(default_factory=dict)
    """Seconds from the run's start to a phase's, of the newest visit."""
    failures: set[Exit] = field(default_factory=set)
    """Exit codes of what failed so far."""
    stack: ExitStack = field(default_factory=ExitStack)
    _sessions: dict[str, Session] = field(default_factory=dict)
    _lock: RLock = field(default_factory=RLock)
    _results_file: PhaseResultsFile = field(init=False)

    def __post_init__(self) -> None:
        self._results_file = PhaseResultsFile(self.run)

    def wheelhouse(self) -> Store:
        """Where stage keeps its files on this machine."""
        from provision.phases.stage import Store  # noqa: PLC0415 - only runs that stage pay for it

        return self.recording_store or Store(self.cache)

    def hosts(self) -> list[Host]:
        """Hosts that no phase has failed for, in inventory order."""
        return [host for host in self.inventory.hosts if not self.has_failed(host.name)]

    def host(self, name: str) -> Host:
        """A host of the run by its name."""
        return next(host for host in self.inventory.hosts if host.name == name)

    def working(self) -> list[Host]:
        """Hosts on which there is something to do."""
        return [host for host in self.hosts() if host.name not in self.up_to_date]

    def variables(self, host: Host) -> dict[str, Any]:
        """What the playbooks that install and serve read of a host."""
        return self.desired[host.name].ansible_vars()

    def has_failed(self, name: str) -> bool:
        """Whether a phase failed for a host."""
        return any(
            result.status in ("failed", "unreachable", "interrupted") for result in self.results.get(name, {}).values()
        )

    def session(self, host: Host) -> Session:
        """The host's session, opened when first asked for and closed with the run."""
        with self._lock:
            if host.name not in self._sessions:
                session = RecordedSession(open_session(host), self.run.change)
                self._sessions[host.name] = session
                self.stack.callback(session.close)
            return self._sessions[host.name]

    def end_beside(self) -> None:
        """End what goes on beside the phases: sessions are free again."""
        for work in (self.ahead, self.early):
            if work is not None:
                work.stop()

    def forget(self, host: Host) -> None:
        """Let go of a host that may have been restarted: its session and its hold went with it."""
        with self._lock:
            session = self._sessions.pop(host.name, None)
            self.locked.discard(host.name)
        if session is not None:
            session.close()

    def record(self, result: PhaseResult) -> None:
        """Keep a phase's result for a host, in its file first."""
        with self._lock:
            self.results.setdefault(result.host, {})[result.phase] = result
            self._results_file.put(result)
            self.run.event("result", host=result.host, phase=result.phase, status=result.status, text=result.text)
        self.progress.finish(result.host, result)

    def fail(self, host: str, phase: PhaseName, error: BaseException, seconds: float = 0.0) -> None:
        """Record a failure; what is no expected error keeps its type in the text."""
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
        """Record a result that ends a host's way, and that the run is red for it."""
        self.failures.add(Exit.RED)
        self.record(result)

    def run_on_hosts(
        self,
        phase: PhaseName,
        hosts: Sequence[Host],
        call: Callable[[Host], T],
        *,
        deadline_s: float,
        while_waiting: Callable[[], None] | None = None,
    ) -> dict[str, T]:
        """Do one thing on all hosts at once; failures are recorded, the others' values returned.

        `meanwhile` is called once, while the hosts are at work.
        """
        if not hosts:
            return {}
        started = time.monotonic()
        tasks = [
            Task(
                host=host.name,
                call=partial(call, host),
                deadline_s=deadline_s,
                priority=int(host.name in self.first),
                cancel=self.session(host).close,
            )
            for host in hosts
        ]
        done = fan_out(tasks, while_waiting=while_waiting)
        for name, outcome in done.outcomes.items():
            if outcome.error is not None:
                self.fail(name, phase, outcome.error, time.monotonic() - started)
        if phase == "probe":
            self.run.write("dispatch.json", asdict(done.stats))
        return done.values

    @contextmanager
    def timed(self, phase: PhaseName) -> Iterator[None]:
        """Measure a phase and keep its seconds in the run's events."""
        started = time.monotonic()
        self.entered[phase] = self.run.seconds
        self.run.event("enter", phase=phase)
        for host in self.hosts():
            self.progress.phase(host.name, phase)
        try:
            yield
        finally:
            self.run.event("phase", phase=phase, seconds=round(time.monotonic() - started, 3))


def _trace(error: BaseException) -> list[str]:
    import traceback  # noqa: PLC0415 - only when something unexpected happened

    return traceback.format_exception(error)
