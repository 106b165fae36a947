"""vllm-router before stub engines, to compare the gateway with: a program of its own, installed from requirements-router.txt."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.peers import environment
from provision.phases.gateway.records import Backend
from tests.gateway.running import DEADLINE_S, ask, free_port, start_stub, wait_until

LOCK = ROOT / "benchmarks" / "requirements-router.txt"
ADDRESS = "127.0.9.20"
KEY = "key-of-the-workers"
"""vllm-router hands on the client's key, so its hosts have one."""


def version() -> str:
    """Return the version of vllm-router in the lock."""
    return next(
        line.split()[0].partition("==")[2] for line in LOCK.read_text().splitlines() if line.startswith("vllm-router==")
    )


@contextmanager
def routing(folder: Path, policy: str) -> Iterator[tuple[str, int]]:
    """Run vllm-router with a policy before two stub engines, and yield its address and port.

    Args:
        folder: The folder of its log.
        policy: `round_robin`, which reads no request, or `cache_aware`, which chooses by prefixes.
    """
    address = (ADDRESS, free_port(ADDRESS))
    words = [str(environment(LOCK) / "vllm-router"), "--host", address[0], "--port", str(address[1])]
    words += ["--prometheus-host", ADDRESS, "--prometheus-port", str(free_port(ADDRESS))]
    words += ["--policy", policy, "--log-level", "warning", "--worker-urls"]
    with ExitStack() as stack, (folder / "vllm-router.log").open("ab") as log:
        for number in (1, 2):
            host = f"127.0.9.2{number}"
            worker = Backend(f"w{number}", "m", host, free_port(host), KEY)
            stack.callback(_end, start_stub(worker))
            words.append(f"http://{worker.address}:{worker.port}")
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(_end, process)
        wait_until(lambda: ask(address, "GET", "/health").status == 200, "vllm-router is never ready")
        yield address


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(DEADLINE_S)
