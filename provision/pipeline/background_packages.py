"""OS packages that hosts lack: who can fetch them, and fetching them while the lock is solved and staged."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from provision.core.models.records import RoomResult
from provision.core.models.settings import Host
from provision.core.models.stack import Stack
from provision.pipeline import desired_state, playbooks
from provision.pipeline.context import Walk

SOURCES_DEADLINE_S = 90.0


def ask_sources(walk: Walk) -> None:
    """Find out which hosts that lack OS packages could not fetch them themselves."""
    asked = lacking(walk)
    if not asked:
        return
    from provision.fleet.package_sources import package_sources_answer  # noqa: PLC0415 - hosts seldom lack packages

    answers = walk.each(
        "stage", asked, lambda host: package_sources_answer(walk.session(host)), deadline_s=SOURCES_DEADLINE_S
    )
    for name, answer in answers.items():
        walk.run.event("package-sources", host=name, room="stage", answer=answer)
        walk.sources[name] = answer


def lacking(walk: Walk) -> list[Host]:
    """Hosts that lack OS packages which this machine could fetch for them."""
    return [host for host in walk.hosts() if _stack(walk, host).system_packages and _has_apt(walk, host)]


def _has_apt(walk: Walk, host: Host) -> bool:
    return walk.facts[host.name].os.package_manager == "apt"


def _stack(walk: Walk, host: Host) -> Stack:
    assert walk.plan
    stack = walk.plan.for_host(host.name).stack
    assert stack
    return stack


def begin(walk: Walk) -> None:
    """Let hosts whose own sources answer install what they lack, beside what comes next; `join` waits for it."""
    hosts = [host for host in walk.hosts() if walk.sources.get(host.name) and walk.places[host.name].root]
    playbooks.take_hold(walk, "install", hosts)
    hosts = [host for host in hosts if host.name in walk.held]
    if hosts:
        walk.early = EarlyPackages(walk, hosts)
        walk.stack.callback(walk.early.stop)


class EarlyPackages:
    """A playbook on a thread of its own, ended in order when the walk ends first."""

    def __init__(self, walk: Walk, hosts: Sequence[Host]) -> None:
        self._walk = walk
        self._hosts = hosts
        self._stopped = threading.Event()
        self._results: Mapping[str, RoomResult] = {}
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
                    **self._walk.places[host.name].ansible_vars(),
                    "firstlight_system_packages": list(
                        desired_state.packages_of(_stack(self._walk, host), self._walk.facts[host.name])
                    ),
                },
            )
            for host in self._hosts
        ]
        try:
            self._results = install(self._walk.run, targets, playbook="prepare", cancelled=self._stopped.is_set)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is told where the walk waits for it
            self._error = error

    def join(self) -> None:
        """Wait, and record what failed."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        for name, result in self._results.items():
            seconds = round(time.monotonic() - self._started, 3)
            self._walk.run.event("packages", host=name, room="install", status=result.status, seconds=result.seconds)
            if result.status not in ("ok", "warn") and not self._walk.has_failed(name):
                self._walk.reject(result.model_copy(update={"room": "install", "seconds": seconds}))

    def stop(self) -> None:
        """End it in order; harmless when it has ended."""
        self._stopped.set()
        self._thread.join()
