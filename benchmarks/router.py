"""vllm-router alone before stub engines, to compare the gateway with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from provision.features.gateway.onhost.router import unpack
from provision.features.gateway.records import Backend
from provision.features.gateway.routers import DISTRIBUTION, LOCK
from provision.phases.stage.locked_wheel import locked_hashes
from tests.features.gateway.routers import wheel_of_router
from tests.features.gateway.running import DEADLINE_S, ask, free_port, start_stub, wait_until

PROGRAM = (
    "import json, sys; from provision.features.gateway.onhost.router import become; become(*json.loads(sys.argv[1]))"
)
ADDRESS = "127.0.9.20"
KEY = "key-of-the-workers"
"""vllm-router hands on the client's key, so its hosts have one."""


def version() -> str:
    """Return the version of vllm-router in the lock."""
    return locked_hashes(LOCK, DISTRIBUTION)[0]


@contextmanager
def routing(folder: Path, policy: str) -> Iterator[tuple[str, int]]:
    """Run vllm-router with a policy before two stub engines, and yield its address and port.

    Args:
        folder: The folder of its files.
        policy: `round_robin`, which reads no request, or `cache_aware`, which chooses by prefixes.
    """
    address = (ADDRESS, free_port(ADDRESS))
    wheel = wheel_of_router()
    wheels = folder / "wheels"
    wheels.mkdir(exist_ok=True)
    (wheels / wheel.name).write_bytes(wheel.read_bytes())
    packages, urls = unpack(wheels, wheel.name, wheel.parent.name), []
    arguments = {
        "host": address[0],
        "port": address[1],
        "prometheus_host": ADDRESS,
        "policy": policy,
        "log_level": "warning",
    }
    with ExitStack() as stack, (folder / "vllm-router.log").open("ab") as log:
        for number in (1, 2):
            host = f"127.0.9.2{number}"
            worker = Backend(f"w{number}", "m", host, free_port(host), KEY)
            stack.callback(_end, start_stub(worker))
            urls.append(f"http://{worker.address}:{worker.port}")
        given = json.dumps([str(packages), arguments | {"worker_urls": urls}])
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, given], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        stack.callback(_end, process)
        wait_until(lambda: ask(address, "GET", "/health").status == 200, "vllm-router is never ready")
        yield address


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(DEADLINE_S)
