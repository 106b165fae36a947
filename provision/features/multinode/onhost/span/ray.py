"""Ray's part of one host of a span: the program that starts it, and the folder and variables that it gets."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from provision.phases.serve.onhost.shared.engine import table

from .meeting import Member

KEPT_HERE = "ray_non_carry_over_env_vars.json"
"""The file in which vLLM looks for variables that it does not send to the processes of other hosts: vllm/ray/ray_env.py of 0.32.0."""

CONNECT_S = 0.5


class Ray:
    """Ray on this host, with a temporary folder of its own, for a number of vLLM's processes.

    Ray of the other hosts joins it at `port` of the head; on each host it listens from port `first` to `last`.
    """

    def __init__(self, member: Member, processes: int, port: int, first: int, last: int) -> None:
        self._member, self._processes = member, processes
        self._own = member.addresses[member.rank]
        self._first, self._last = first, last
        self._head = _joined(member.addresses[0], port)
        self._table = table("ray", __package__)
        self._folder = Path(tempfile.mkdtemp(prefix="ray-"))

    @property
    def _metrics_port(self) -> int:
        return self._first + len(self._table["ports"]) + len(self._table["head_ports"])

    @property
    def command(self) -> list[str]:
        """Return the command that runs until Ray ends here, and with which all of Ray's programs of this host end."""
        known = self._table
        words = [str(Path(sys.executable).with_name("ray")), "start", "--block"]
        if self._member.rank == 0:
            words += ["--head", "--port", self._head.rpartition(":")[2], *known["head_options"]]
        else:
            words += ["--address", self._head]
        words += [
            "--node-ip-address",
            self._own,
            "--num-gpus",
            str(self._processes),
            "--temp-dir",
            str(self._folder / "ray"),
        ]
        for port, option in enumerate((*known["ports"], *known["head_ports"]), self._first):
            if self._member.rank == 0 or option not in known["head_ports"]:
                words += [option, str(port)]
        words += ["--min-worker-port", str(self._metrics_port + 1), "--max-worker-port", str(self._last)]
        return [*words, *known["options"]]

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the variables of Ray and of the server.

        Every host has the variables of its own service, the API key among them: vLLM is to send none of the head's to the others.
        """
        (self._folder / KEPT_HERE).write_text(json.dumps(sorted(given)))
        return {
            **given,
            **self._table["environment"],
            self._table["metrics_variable"]: str(self._metrics_port),
            "RAY_ADDRESS": self._head,
            "RAY_TMPDIR": str(self._folder),
            "VLLM_CONFIG_ROOT": str(self._folder),
        }

    def before_start(self) -> str:
        """Return what it waits for to start: that of the head, on other hosts; empty when it can start."""
        return "" if self._member.rank == 0 else self._silent(range(1))

    def before_server(self) -> str:
        """Return on which host it is not up yet; empty when it is up on all."""
        return self._silent(range(len(self._member.addresses)))

    def _silent(self, ranks: range) -> str:
        port = self._first + self._table["ports"].index(self._table["last_up"])
        for rank in ranks:
            address = self._member.addresses[rank]
            try:
                socket.create_connection((address, port), CONNECT_S).close()
            except OSError:
                return f"Ray of {self._member.named(rank)}, {_joined(address, port)}"
        return ""

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _joined(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
