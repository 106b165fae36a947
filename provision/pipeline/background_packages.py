"""OS packages that hosts lack: who can fetch them, and fetching them while the lock is solved and staged."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from provision.core.models.records import PhaseResult
from provision.core.models.settings import Host
from provision.core.models.stack import Stack
from provision.pipeline import desired_state, playbooks
from provision.pipeline.context import RunContext

SOURCES_DEADLINE_S = 90.0


def ask_sources(context: RunContext) -> None:
    """Find out which hosts that lack OS packages could not fetch them themselves."""
    asked = lacking(context)
    if not asked:
        return
    from provision.fleet.package_sources import package_sources_answer  # noqa: PLC0415 - hosts seldom lack packages

    answers = context.run_on_hosts(
        "stage", asked, lambda host: package_sources_answer(context.session(host)), deadline_s=SOURCES_DEADLINE_S
    )
    for name, answer in answers.items():
        context.run.event("package-sources", host=name, phase="stage", answer=answer)
        context.sources[name] = answer


def lacking(context: RunContext) -> list[Host]:
    """Hosts that lack OS packages which this machine could fetch for them."""
    return [host for host in context.hosts() if _stack(context, host).system_packages and _has_apt(context, host)]


def _has_apt(context: RunContext, host: Host) -> bool:
    return context.facts[host.name].os.package_manager == "apt"


def _stack(context: RunContext, host: Host) -> Stack:
    assert context.plan
    stack = context.plan.for_host(host.name).stack
    assert stack
    return stack


def begin(context: RunContext) -> None:
    """Let hosts whose own sources answer install what they lack, beside what comes next; `join` waits for it."""
    hosts = [
        host for host in context.hosts() if context.sources.get(host.name) and context.install_paths[host.name].root
    ]
    playbooks.acquire_locks(context, "install", hosts)
    hosts = [host for host in hosts if host.name in context.locked]
    if hosts:
        context.early = EarlyPackages(context, hosts)
        context.stack.callback(context.early.stop)


class EarlyPackages:
    """A playbook on a thread of its own, ended in order when the run ends first."""

    def __init__(self, context: RunContext, hosts: Sequence[Host]) -> None:
        self._context = context
        self._hosts = hosts
        self._stopped = threading.Event()
        self._results: Mapping[str, PhaseResult] = {}
        self._error: BaseException | None = None
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="firstlight-packages", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        from provision.phases.install import Target, install  # noqa: PLC0415 - Ansible is needed only where something changes

        targets = [
            Target(
                host,
                {
                    **self._context.install_paths[host.name].ansible_vars(),
                    "firstlight_system_packages": list(
                        desired_state.packages_of(_stack(self._context, host), self._context.facts[host.name])
                    ),
                },
            )
            for host in self._hosts
        ]
        try:
            self._results = install(self._context.run, targets, playbook="prepare", cancelled=self._stopped.is_set)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is told where the run waits for it
            self._error = error

    def join(self) -> None:
        """Wait, and record what failed."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        for name, result in self._results.items():
            seconds = round(time.monotonic() - self._started, 3)
            self._context.run.event(
                "packages", host=name, phase="install", status=result.status, seconds=result.seconds
            )
            if result.status not in ("ok", "warn") and not self._context.has_failed(name):
                self._context.reject(result.model_copy(update={"phase": "install", "seconds": seconds}))

    def stop(self) -> None:
        """End it in order; harmless when it has ended."""
        self._stopped.set()
        self._thread.join()
