"""vllm-router before a gateway's stub engines, from its wheel and run by the gateway's own program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from provision.catalog.index.settings import read_settings
from provision.core.errors import StageError
from provision.core.models.staged import StagedFile
from provision.features.gateway.backends import Gateway
from provision.features.gateway.haproxy import routed
from provision.features.gateway.router import WHEELS, address_of_router, router_set
from provision.features.gateway.routers import stage_router
from provision.phases.stage import Store
from tests.features.gateway.running import DEADLINE_S, ask, wait_until

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "firstlight-tests" / "router"


def wheel_of_router() -> StagedFile:
    """Return the wheel, which is fetched once; skip the test where the index does not have it."""
    try:
        return stage_router(os.uname().machine, read_settings(), Store(CACHE))
    except StageError as error:
        if os.environ.get("FIRSTLIGHT_REQUIRE_FLEET"):
            pytest.fail(f"vllm-router could not be fetched: {error}")
        pytest.skip(f"vllm-router could not be fetched, so routing by it is NOT TESTED: {error}")


@dataclass
class Routers:
    """The process that runs the routers of a gateway."""

    folder: Path
    process: subprocess.Popen[bytes]

    def write(self, gateway: Gateway) -> None:
        """Write its files for a gateway."""
        write_files(self.folder, gateway)

    def reload(self) -> None:
        """Let it read its files anew."""
        self.process.send_signal(signal.SIGHUP)

    def children(self) -> set[int]:
        """Return the processes of routers."""
        number = self.process.pid
        return {int(one) for one in Path(f"/proc/{number}/task/{number}/children").read_text().split()}


def write_files(folder: Path, gateway: Gateway) -> None:
    """Write what the unit runs with."""
    wheel = wheel_of_router()
    one = router_set(gateway, routed(gateway), wheel=wheel, python=sys.executable, prefix=str(folder))
    for name, text in one.files.items():
        path = folder / one.name / "current" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    wheels = folder / one.name / WHEELS
    if not wheels.is_dir():
        wheels.mkdir()
        (wheels / wheel.name).symlink_to(wheel.path)


@contextmanager
def routing(folder: Path, gateway: Gateway) -> Iterator[Routers]:
    """Run the routers of a gateway as its unit does; they have ended at the end."""
    write_files(folder, gateway)
    program = folder / "gateway-router/current/router.py"
    words = [sys.executable, "-I", str(program), str(folder / "gateway-router" / WHEELS)]
    with (folder / "router.log").open("ab") as log:
        started = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        for number, _ in enumerate(gateway.models()):
            wait_for_router(gateway, number)
        yield Routers(folder, started)
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            started.kill()
            raise


def wait_for_router(gateway: Gateway, number: int = 0) -> None:
    """Wait until a router answers."""
    at = (address_of_router(number), gateway.settings.gateway_router_port)
    wait_until(lambda: ask(at, "GET", "/readiness").status == 200, "vllm-router is never ready")
