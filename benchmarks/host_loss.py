"""How long a gateway goes on sending requests to a host that is lost: a real HAProxy, stub engines, real health agents."""

from __future__ import annotations

import random
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.features.gateway.running import Site, running

TRIALS = 20
DEAD_S, FROZEN_S = 2.0, 3.0
"""Aims: seconds until a dead, and a frozen host gets no requests."""
BUSY_S = 60.0
CLIENTS = 4
POLL_S = 0.005
TABLE = "firstlight_host_loss"


@dataclass(frozen=True)
class Loss:
    """A way to lose a host."""

    lose: Callable[[Site], None]
    heal: Callable[[Site], None]
    aim_s: float
    is_at_work: bool = False


def end(site: Site) -> None:
    """End the server, as a crash does: its port refuses connections."""
    site.stubs["h1"].process.kill()
    site.stubs["h1"].process.wait()


def disconnect(site: Site) -> None:
    """Drop all packets to the host, as after a power failure: nothing refuses a connection."""
    backend = site.stubs["h1"].backend
    rule = f"ip daddr {backend.address} tcp dport {{ {backend.port}, {backend.health_port} }} drop"
    chain = f"type filter hook input priority 0;\n{rule}\n"
    text = f"table ip {TABLE} {{\nchain lost {{\n{chain}}}\n}}\n"
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def connect(_site: Site) -> None:
    """Let packets through again."""
    subprocess.run(["nft", "delete", "table", "ip", TABLE], check=True)


def freeze(site: Site) -> None:
    """Stop the engine's process; its server still answers."""
    site.stubs["h1"].signal_engine(signal.SIGSTOP)


def thaw(site: Site) -> None:
    """Let the engine's process go on."""
    site.stubs["h1"].signal_engine(signal.SIGCONT)


LOSSES = {
    "ended": Loss(end, lambda site: site.stubs["h1"].restart(), DEAD_S),
    "disconnected": Loss(disconnect, connect, DEAD_S),
    "frozen": Loss(freeze, thaw, FROZEN_S),
    "frozen_at_work": Loss(freeze, thaw, FROZEN_S, is_at_work=True),
}


def measure(folder: Path) -> dict[str, Any]:
    """Return the seconds of each loss, and how often a host at work was taken out although it was healthy."""
    found: dict[str, Any] = {}
    for name, loss in LOSSES.items():
        with (
            tempfile.TemporaryDirectory(dir=folder) as files,
            running(Path(files), {"h1": "m", "h2": "m"}, agents=True) as site,
        ):
            times = sorted(trial(site, loss, random.Random(number)) for number in range(TRIALS))
        found[name] = {
            "trials": TRIALS,
            "median_s": round(statistics.median(times), 2),
            "longest_s": round(times[-1], 2),
            "aim_s": loss.aim_s,
            "met": times[-1] <= loss.aim_s,
        }
    with tempfile.TemporaryDirectory(dir=folder) as files, running(Path(files), {"h1": "m"}, agents=True) as site:
        found["long_work"] = {"seconds": BUSY_S, "taken_out": taken_out(site), "aim": 0}
        found["long_work"]["met"] = found["long_work"]["taken_out"] == 0
    return found


def trial(site: Site, loss: Loss, draw: random.Random) -> float:
    """Lose the host once; return the seconds until it gets no requests."""
    with load(site) if loss.is_at_work else no_load():
        time.sleep(draw.uniform(1, 2))  # the checks of HAProxy and the agent are at another point each time
        loss.lose(site)
        started = time.monotonic()
        try:
            while site.state("h1").startswith("UP"):
                time.sleep(POLL_S)
            return time.monotonic() - started
        finally:
            loss.heal(site)
            site.wait("h1", "UP")


def taken_out(site: Site) -> int:
    """Let each token take seconds of computing, with requests waiting; return how often the host was taken out."""
    site.stubs["h1"].mode("work")
    with load(site):
        time.sleep(BUSY_S)
        return int(site.row("model-0", "h1")["chkdown"])


@contextmanager
def no_load() -> Iterator[None]:
    """Send nothing."""
    yield


@contextmanager
def load(site: Site) -> Iterator[None]:
    """Send requests all the time; those that fail belong to the trial."""
    done = threading.Event()

    def client() -> None:
        while not done.is_set():
            try:
                site.chat()
            except OSError:
                done.wait(POLL_S)

    workers = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        done.set()
        site.stubs["h1"].mode("ok")
        for worker in workers:
            worker.join()
