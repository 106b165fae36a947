"""The faults: what each does, and when it can be made. Those that test hosts cannot have are listed with the reason."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from benchmarks.chaos_cases import on_controller, on_host
from benchmarks.chaos_cases.subject import Scene

Make = Callable[[Scene], AbstractContextManager[str]]
"""Entered when the fault begins, yields what it did, and is left when it ends."""
_WITH_FILES = ("a removed environment", "a bare host")


@dataclass(frozen=True)
class Fault:
    """A fault."""

    make: Make
    lasts: Literal["at once", "seconds", "the run"]
    moments: tuple[str, ...] = ()
    """Moments at which it has an effect; all when empty."""
    changes: tuple[str, ...] = ()
    """Changes during which it has an effect; all when empty."""
    seconds: tuple[float, float] = (0.0, 0.0)
    """How long it lasts, at least and at most, where that is drawn."""


def _at_once(act: Callable[[Scene], str], moments: tuple[str, ...] = (), changes: tuple[str, ...] = ()) -> Fault:
    @contextmanager
    def make(scene: Scene) -> Iterator[str]:
        yield act(scene)

    return Fault(make, "at once", moments, changes)


FAULTS = {
    "controller killed": _at_once(partial(on_controller.send_signal, signal.SIGKILL)),
    "controller interrupted": _at_once(partial(on_controller.send_signal, signal.SIGINT)),
    "two controllers": _at_once(on_controller.start_another),
    "wheelhouse damaged between two phases": _at_once(
        on_controller.damage_wheelhouse, ("between stage and install", "sending"), _WITH_FILES
    ),
    "network cut": Fault(on_host.network_cut, "seconds", seconds=(3, 30)),
    "slow link": Fault(on_host.slow_link, "seconds", seconds=(10, 30)),
    "power loss": Fault(on_host.power_loss, "seconds", seconds=(1, 10)),
    "disk full": Fault(on_host.disk_full, "the run"),
    "read-only disk": Fault(on_host.read_only_disk, "the run"),
    "sshd restarted": _at_once(on_host.restart_sshd),
    "apt lock held": Fault(
        on_host.apt_lock,
        "seconds",
        moments=("probe", "packages in the background", "stage", "install"),
        changes=("a bare host",),
        seconds=(10, 40),
    ),
    "file corrupted on arrival": _at_once(on_host.corrupt_arrived, ("sending", "arrival"), _WITH_FILES),
    "out of memory": Fault(on_host.out_of_memory, "at once", seconds=(5, 10)),
}

NOT_MADE = {
    "clock jump": "a container has the clock of this machine, and the kernel has no namespace for the time of day",
    "out of memory of a whole host": "containers share the memory of this machine; the processes of one get a limit instead, and the kernel kills the largest",
    "delay and loss of packets": "this kernel has no netem; the slow link is a limit of the rate alone",
    "loss of data that was not yet written": "the page cache is that of this machine, and survives a container that is killed",
}
"""What test hosts cannot have, with the reason."""
