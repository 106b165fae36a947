"""OS packages that hosts lack: installed in the background, while `stage` locks and fetches."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor

from provision.core.models.inventory import Host
from provision.fleet.package_sources import package_sources_answer
from provision.phases.install.host_results import install
from provision.phases.install.hosts_file import Target
from provision.run import desired_state, playbooks
from provision.run.context import RunContext
from provision.run.results import PlannedHosts

SOURCES_DEADLINE_S = 90.0


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


def start(context: RunContext, planned: PlannedHosts) -> BackgroundPackages | None:
    """Let hosts whose package sources answer install the OS packages that they lack, of services one for its machine; None when there is no such host."""
    answers = package_sources(context, planned)
    hosts = [host for host in context.hosts() if answers.get(host.name) and planned.install_paths[host.name].root]
    hosts = playbooks.acquire_locks(context, planned, "install", [*{host.machine: host for host in hosts}.values()])
    return BackgroundPackages(context, planned, hosts) if hosts else None


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
