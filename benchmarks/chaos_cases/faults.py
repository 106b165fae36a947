"""The faults: what each does, when it can be made, and how it is undone. Those that test hosts cannot have are listed with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

from benchmarks.chaos_cases import on_controller, on_host
from benchmarks.chaos_cases.scene import Scene

Where = Literal["controller", "network", "host"]
Lasts = Literal["at once", "seconds", "the run"]

_WITH_FILES = ("a removed environment", "a bare host")
_NEVER_SECONDS = (0.0, 0.0)


@dataclass(frozen=True)
class Fault:
    """A fault. `make` is entered when it begins, yields what it did, and is left when it ends."""

    name: str
    where: Where
    make: Callable[[Scene], AbstractContextManager[str]]
    lasts: Lasts
    undone: str
    """What ends it."""
    moments: tuple[str, ...] = ()
    """Moments at which it has an effect; all when empty."""
    changes: tuple[str, ...] = ()
    """Changes during which it has an effect; all when empty."""
    seconds: tuple[float, float] = _NEVER_SECONDS
    """How long it lasts, at least and at most, where that is drawn."""


def _table(*faults: Fault) -> Mapping[str, Fault]:
    return {fault.name: fault for fault in faults}


def _at_once(act: Callable[[Scene], str]) -> Callable[[Scene], AbstractContextManager[str]]:
    @contextmanager
    def make(scene: Scene) -> Iterator[str]:
        yield act(scene)

    return make


FAULTS = _table(
    Fault(
        "controller killed",
        "controller",
        _at_once(on_controller.kill),
        "at once",
        "nothing: SIGKILL to its process group",
    ),
    Fault(
        "controller interrupted",
        "controller",
        _at_once(on_controller.interrupt),
        "at once",
        "nothing: SIGINT, as by Ctrl-C",
    ),
    Fault(
        "two controllers",
        "controller",
        _at_once(on_controller.start_another),
        "at once",
        "the second run ends by itself",
    ),
    Fault(
        "wheelhouse damaged between two phases",
        "controller",
        _at_once(on_controller.damage_wheelhouse),
        "at once",
        "nothing: a byte of a wheel in the cache is another one",
        moments=("between stage and install", "sending"),
        changes=_WITH_FILES,
    ),
    Fault("network cut", "network", on_host.network_cut, "seconds", "the interface is up again", seconds=(3, 30)),
    Fault("slow link", "network", on_host.slow_link, "seconds", "the limit is removed", seconds=(10, 30)),
    Fault("power loss", "host", on_host.power_loss, "seconds", "the host is booted", seconds=(1, 10)),
    Fault("disk full", "host", on_host.disk_full, "the run", "the space is given back"),
    Fault(
        "read-only disk",
        "host",
        on_host.read_only_disk,
        "the run",
        "the host is off, its file system checked, the host booted",
    ),
    Fault(
        "sshd restarted",
        "host",
        _at_once(on_host.restart_sshd),
        "at once",
        "nothing: sshd runs again, its connections are ended",
    ),
    Fault(
        "apt lock held",
        "host",
        on_host.apt_lock,
        "seconds",
        "the process that holds the lock ends",
        moments=("probe", "packages in the background", "stage", "install"),
        changes=("a bare host",),
        seconds=(10, 40),
    ),
    Fault(
        "file corrupted on arrival",
        "host",
        _at_once(on_host.corrupt_arrived),
        "at once",
        "nothing: a byte of a wheel in the incoming folder is another one",
        moments=("sending", "arrival"),
        changes=_WITH_FILES,
    ),
    Fault("out of memory", "host", on_host.out_of_memory, "at once", "the limit is removed", seconds=(5, 10)),
)

NOT_MADE = {
    "clock jump": "a container has the clock of this machine, and the kernel has no namespace for the time of day",
    "out of memory of a whole host": "containers share the memory of this machine; the processes of one get a limit instead, and the kernel kills the largest",
    "delay and loss of packets": "this kernel has no netem; the slow link is a limit of the rate alone",
    "loss of data that was not yet written": "the page cache is that of this machine, and survives a container that is killed",
}
"""What test hosts cannot have, with the reason."""
