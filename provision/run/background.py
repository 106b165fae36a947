"""Work that overlaps phases: OS packages that hosts lack, and wheels for hosts without an environment, while `stage` locks and fetches.

Where hosts hand files on, only those get wheels here that the controller sends to; `install` sends the rest.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor

from provision.catalog.versions import numbers
from provision.core import features
from provision.core.errors import FirstlightError
from provision.core.models.inventory import Host
from provision.core.models.staged import StagedFile
from provision.fleet.package_sources import package_sources_answer
from provision.fleet.ssh.dispatch import DEFAULT_LIMIT
from provision.phases.install.host_results import install
from provision.phases.install.hosts_file import Target
from provision.run import desired_state, playbooks
from provision.run.context import RunContext
from provision.run.results import PlannedHosts
from provision.run.sending import SentBytes

SOURCES_DEADLINE_S = 90.0
PATH = ("/usr/bin/", "/usr/local/bin/")
"""Where root finds a Python; that of a login may be elsewhere."""
OLDEST_PYTHON = (3, 9)
"""What Ansible's modules need, as in find_python.sh of role `base`: a host without it waits for the one that `install` sends."""


def package_sources(context: RunContext, planned: PlannedHosts) -> dict[str, bool | None]:
    """Return whether the package sources of hosts that lack OS packages answer, asked once a run; None where one cannot tell."""
    if context.background.package_sources is None:
        context.background.package_sources = context.run_on_hosts(
            "stage",
            lacking(context, planned),
            lambda host: package_sources_answer(context.session(host)),
            deadline_s=SOURCES_DEADLINE_S,
        )
        for name, answer in context.background.package_sources.items():
            context.run.event("package-sources", host=name, phase="stage", answer=answer)
    return context.background.package_sources


def lacking(context: RunContext, planned: PlannedHosts) -> list[Host]:
    """Return the hosts that lack OS packages which this machine could fetch for them."""
    return [
        host
        for host in context.hosts()
        if (stack := planned.stack(host.name))
        and stack.system_packages
        and planned.facts[host.name].os.package_manager == "apt"
    ]


def start(context: RunContext, planned: PlannedHosts) -> None:
    """Begin, with `stage`, what `install` waits for.

    Hosts whose package sources answer install the OS packages that they lack, of services one for its machine. Hosts that have no
    environment yet are locked, and get their files.
    """
    answers = package_sources(context, planned)
    hosts = [
        host
        for host in context.hosts()
        if answers.get(host.name)
        and planned.install_paths[host.name].root
        and any(
            python.path.startswith(PATH) and numbers(python.version) >= OLDEST_PYTHON
            for python in planned.facts[host.name].pythons
        )
    ]
    hosts = playbooks.acquire_locks(context, planned, "install", [*{host.machine: host for host in hosts}.values()])
    if hosts:
        context.start_background("packages", BackgroundPackages(context, planned, hosts))
    bare = [
        host
        for host in context.hosts()
        if host.connection.kind != "local"
        and host.source_of("wheels") not in ("host", "path")
        and ((installed := planned.facts[host.name].installed) is None or not installed.environments)
    ]
    bare = playbooks.acquire_locks(context, planned, "install", bare)
    if not bare:
        return
    for hook in features.hooks("sent_early"):
        bare = hook(planned, bare)
    context.start_background("upload", BackgroundUpload(context, planned, bare))


class BackgroundPackages:
    """The playbook `prepare` on a thread of its own."""

    def __init__(self, context: RunContext, planned: PlannedHosts, hosts: Sequence[Host]) -> None:
        self._context = context
        self._stopped = threading.Event()
        self._started = time.monotonic()
        targets = []
        for host in hosts:
            stack, paths = planned.stack(host.name), planned.install_paths[host.name]
            packages = desired_state.packages_of(stack, planned.facts[host.name]) if stack else ()
            targets.append(Target(host, {**paths.ansible_vars(), "firstlight_system_packages": [*packages]}))
        self._future = ThreadPoolExecutor(1, "firstlight-packages").submit(
            install, context.run, targets, playbook="prepare", cancelled=self._stopped.is_set
        )

    def wait(self) -> None:
        """Wait for the playbook, and record what failed."""
        for name, result in self._future.result().items():
            seconds = round(time.monotonic() - self._started, 3)
            self._context.run.event(
                "packages", host=name, phase="install", status=result.status, seconds=result.seconds
            )
            if result.status not in ("ok", "warn") and not self._context.has_failed(name):
                self._context.reject(result.model_copy(update={"phase": "install", "seconds": seconds}))

    def stop(self) -> None:
        """End the playbook in order; do nothing when it has ended."""
        self._stopped.set()
        futures.wait([self._future])


class BackgroundUpload:
    """Sends wheels to bare hosts as they come: each host gets at a time all that came while it got the ones before.

    A failure here is only noted: `install` looks at what each host has, sends the rest, and reports what is wrong.
    """

    def __init__(self, context: RunContext, planned: PlannedHosts, hosts: Sequence[Host]) -> None:
        self._context = context
        self._planned = planned
        self._bare = {host.name for host in hosts}
        self._waiting: dict[str, list[StagedFile]] = {}
        """Files to come of each host that is sent to."""
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(DEFAULT_LIMIT, "firstlight-upload")
        self._futures: list[futures.Future[None]] = []

    def callback(self, hosts: Sequence[Host]) -> Callable[[StagedFile], None] | None:
        """Return what `stage` is to call with each wheel; None when no host is bare."""
        bare = [host for host in hosts if host.name in self._bare]

        def take(file: StagedFile) -> None:
            with self._lock:
                for host in bare:
                    if host.name not in self._waiting:
                        self._futures.append(self._pool.submit(self._send, host))
                    self._waiting.setdefault(host.name, []).append(file)

        return take if bare else None

    def wait(self) -> None:
        """Wait until all files that came are on the hosts."""
        futures.wait(self._futures)

    def stop(self) -> None:
        """Break off what is being sent."""
        self._stopped.set()
        for name in tuple(self._waiting):
            self._context.session(self._context.host(name)).close()
        self.wait()

    def _send(self, host: Host) -> None:
        while files := self._next(host.name):
            try:
                report = self._context.session(host).send(files, self._planned.install_paths[host.name].incoming)
            except FirstlightError as error:
                self._context.run.event("background-upload-ended", host=host.name, phase="stage", text=error.text)
                return
            self._context.state(SentBytes).count(report.bytes_sent)
            seconds = round(report.seconds, 3)
            self._context.run.event(
                "background-upload", host=host.name, phase="stage", bytes=report.bytes_sent, seconds=seconds
            )

    def _next(self, name: str) -> list[StagedFile]:
        """Return the files of a host that came; without any, the next one begins anew."""
        with self._lock:
            files = self._waiting.pop(name)
            if not files or self._stopped.is_set():
                return []
            self._waiting[name] = []
            return files
