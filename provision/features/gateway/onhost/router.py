"""Runs vllm-router for each model of this gateway: `python3 router.py FOLDER`. Standard library only.

FOLDER has the wheel that `routers.json` in the folder of this program names; what it holds is unpacked next to it once. A router that ends is started again.
After SIGHUP the file is read anew: a router with other arguments ends when its streams have ended, and its successor takes new requests at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, Iterable

PAUSE_S = 1.0
"""Between two starts of a router that ends."""
CONFIG = "routers.json"
SIGNALS = {signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD}


def unpack(folder: Path, name: str, sha256: str) -> Path:
    """Return the folder that holds what a wheel holds; those of other wheels go. Raises ValueError if the wheel is another one."""
    unpacked = folder / sha256
    if not unpacked.is_dir():
        wheel = folder / name
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != sha256:
            raise ValueError(f"{wheel} has sha256 {found}, not {sha256}")
        fresh = folder / f"{sha256}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(fresh)
        fresh.rename(unpacked)
    for other in folder.iterdir():
        if other.is_dir() and other != unpacked:
            shutil.rmtree(other, ignore_errors=True)
        elif other.suffix == ".whl" and other.name != name:
            other.unlink()
    return unpacked


class Routers:
    """The routers that are to run, and their processes."""

    def __init__(self, files: Path, folder: Path) -> None:
        self.files, self.folder = files, folder
        self.wanted: list[str] = []
        self.running: dict[int, str] = {}

    def read(self) -> None:
        """Read which routers are to run; end those that are no longer among them."""
        document = json.loads((self.files / CONFIG).read_text())
        packages = str(unpack(self.folder, document["wheel"], document["sha256"]))
        self.wanted = [json.dumps([packages, arguments]) for arguments in document["routers"]]
        self.end(number for number, router in self.running.items() if router not in self.wanted)

    def start_missing(self) -> None:
        """Start the routers that do not run."""
        for router in self.wanted:
            if router not in self.running.values():
                number = os.fork()
                if number == 0:
                    become(*json.loads(router))
                self.running[number] = router

    def end(self, numbers: Iterable[int]) -> None:
        """Let processes end when their streams have ended."""
        for number in numbers:
            os.kill(number, signal.SIGTERM)

    def forget_ended(self) -> bool:
        """Forget processes that have ended; return whether one of them was to run."""
        ended = [self.running.pop(number) for number in [*self.running] if os.waitpid(number, os.WNOHANG)[0]]
        return any(router in self.wanted for router in ended)

    def run(self) -> None:
        """Keep the routers running until SIGTERM, and end with the last of them."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self.read()
        got = None
        while got != signal.SIGTERM:
            self.start_missing()
            got = signal.sigwait(SIGNALS)
            if got == signal.SIGHUP:
                self.read()
            if self.forget_ended():
                time.sleep(PAUSE_S)
        self.end(self.running)
        while self.running:
            signal.sigwait({signal.SIGCHLD})
            self.forget_ended()


def become(packages: str, arguments: dict[str, Any]) -> None:
    """Be a router, and end with it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    sys.path.insert(0, packages)
    from vllm_router.router import Router
    from vllm_router.router_args import RouterArgs

    try:
        # With a fixed port its successor would have to wait for the last of its streams.
        with socket.create_server((arguments["prometheus_host"], 0)) as server:
            port = server.getsockname()[1]
        Router.from_args(RouterArgs(**arguments, prometheus_port=port)).start()
    except BaseException as error:  # noqa: BLE001 - whatever it is, this process ends with it; a panic of Rust is no Exception
        sys.stderr.write(f"{arguments['host']}: {error}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Run the routers."""
    Routers(Path(__file__).absolute().parent, Path(sys.argv[1])).run()


if __name__ == "__main__":
    main()
