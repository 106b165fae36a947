"""Many hosts on one machine: a loopback address for each, where OpenSSH's own server answers each connection.

All are this machine: what a login runs, runs here. The probe takes the time of a whole host, so that hundreds of them at once would
measure this machine; with `replays` its script is answered with what it printed here once. Some hosts may be silent (they accept a connection and say nothing) or endless (whatever
is run there prints without end).
"""

from __future__ import annotations

import getpass
import resource
import selectors
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from provision.phases.probe.reading import script

PORT = 40022
PER_NETWORK = 250
NONCE = "recordedrecorded"
PREFIX = "/recorded/prefix"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
_REPLAY = f"""#!/bin/sh
case $SSH_ORIGINAL_COMMAND in
'sh -s')
  while read -r line; do
    case $line in
    FL_NONCE=*) nonce=${{line#*=}} ;;
    FL_PREFIX=*) prefix=${{line#*=}} ;;
    FL_MORE=*configuration*) more=-more; break ;;
    FL_MORE=*) break ;;
    esac
  done
  cat >/dev/null
  set -- $SSH_CONNECTION
  exec sed "s|{NONCE}|$nonce|g; s|{PREFIX}|$prefix|g; s|{BOOT_ID}|$3|g" "${{0%/*}}/answer$more"
  ;;
esac
exec sh -c "$SSH_ORIGINAL_COMMAND"
"""
"""Answers the script of the probe with the recorded answer, and runs everything else."""
_REAL = f"""#!/bin/sh
case $SSH_ORIGINAL_COMMAND in
'sh -s')
  set -- $SSH_CONNECTION
  sh -s | sed "s|{BOOT_ID}|$3|g"
  exit
  ;;
esac
exec sh -c "$SSH_ORIGINAL_COMMAND"
"""
"""Runs everything; the probe sees another boot at each address, or the hosts would be one machine."""


def address(number: int) -> str:
    """Return the loopback address of a host, counted from 0."""
    return f"127.0.{40 + number // PER_NETWORK}.{1 + number % PER_NETWORK}"


def sshd_program(named: str | None) -> str:
    """Return the path of OpenSSH's server. Ends the program where it is not installed."""
    found = shutil.which(named or "sshd", path=None if named else "/usr/sbin:/usr/local/sbin:/usr/bin")
    if found is None:
        sys.exit("error: sshd is not installed here (package openssh-server); --sshd names it elsewhere")
    return str(Path(found).absolute())


@dataclass
class SimulatedHosts:
    """The addresses that listen, and the servers of the connections."""

    sshd: str
    folder: Path
    number: int
    silent: frozenset[str] = frozenset()
    """Addresses that accept and say nothing."""
    replays: bool = False
    """Whether the probe is answered from the recording."""
    _listening: selectors.DefaultSelector = field(default_factory=selectors.DefaultSelector)
    _running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _kept: list[socket.socket] = field(default_factory=list)
    _ending: bool = False

    def make_files(self, endless: Collection[str]) -> None:
        """Make the keys, the server's configuration and the list of known host keys."""
        for name in ("host_key", "user_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        keys = self.folder / "authorized_keys"
        keys.write_bytes((self.folder / "user_key.pub").read_bytes())
        lines = [
            f"HostKey {self.folder}/host_key",
            f"AuthorizedKeysFile {keys}",
            # The folder of a benchmark is below /tmp, which everybody may write.
            "StrictModes no",
            "PermitRootLogin yes",
            "UsePAM no",
            "PidFile none",
            "LogLevel QUIET",
        ]
        if endless:
            lines += [f"Match LocalAddress {','.join(sorted(endless))}", "ForceCommand exec yes an-endless-answer"]
        # The first value of a setting counts, and one for an address before one for all.
        for kind in ("real", "replay"):
            config = "\n".join([*lines, "Match all", f"ForceCommand {self.folder}/{kind}"])
            (self.folder / f"{kind}.conf").write_text(config + "\n", encoding="utf-8")
        kind, key, *_ = (self.folder / "host_key.pub").read_text(encoding="utf-8").split()
        known = "".join(f"[{address(number)}]:{PORT} {kind} {key}\n" for number in range(self.number))
        (self.folder / "known_hosts").write_text(known, encoding="utf-8")

    def record(self) -> None:
        """Run the probe here, and keep its answer for hosts that replay it."""
        for more in ("", "-more"):
            text = script(prefix=PREFIX, nonce=NONCE, with_configuration=bool(more))
            done = subprocess.run(["sh", "-s"], input=text.encode(), capture_output=True, check=True)
            (self.folder / f"answer{more}").write_bytes(done.stdout)
        for name, text in (("real", _REAL), ("replay", _REPLAY)):
            (self.folder / name).write_text(text, encoding="utf-8")
            (self.folder / name).chmod(0o755)

    def write_inventory(self) -> Path:
        """Write an inventory of all hosts, each with a prefix of its own; return its path."""
        hosts = {
            f"gpu-{number + 1:03}": {
                "ansible_host": address(number),
                "firstlight_prefix": str(self.folder / "prefixes" / f"gpu-{number + 1:03}"),
            }
            for number in range(self.number)
        }
        variables: dict[str, Any] = {
            "ansible_port": PORT,
            "ansible_user": getpass.getuser(),
            "ansible_ssh_private_key_file": str(self.folder / "user_key"),
            "ansible_ssh_common_args": f"-F none -o IdentitiesOnly=yes -o UserKnownHostsFile={self.folder}/known_hosts -o GlobalKnownHostsFile=none",
        }
        path = self.folder / "inventory" / "hosts.yml"
        path.parent.mkdir()
        path.write_text(yaml.safe_dump({"all": {"vars": variables, "hosts": hosts}}), encoding="utf-8")
        return path.parent

    def listen(self) -> None:
        """Listen at all addresses."""
        for number in range(self.number):
            listener = socket.create_server((address(number), PORT), backlog=16)
            self._listening.register(listener, selectors.EVENT_READ)

    def serve(self) -> None:
        """Answer connections until the hosts end."""
        while not self._ending:
            for key, _ in self._listening.select(0.2):
                assert isinstance(key.fileobj, socket.socket)
                connection, _ = key.fileobj.accept()
                if key.fileobj.getsockname()[0] in self.silent:
                    self._kept.append(connection)
                    continue
                with connection:
                    command = [
                        self.sshd,
                        "-i",
                        "-f",
                        str(self.folder / ("replay.conf" if self.replays else "real.conf")),
                    ]
                    self._running.append(
                        subprocess.Popen(
                            command, stdin=connection.fileno(), stdout=connection.fileno(), stderr=subprocess.DEVNULL
                        )
                    )
            self._running = [process for process in self._running if process.poll() is None]

    def end(self) -> None:
        """Close everything, and end the servers that still run."""
        self._ending = True
        for each in [*(key.fileobj for key in self._listening.get_map().values()), *self._kept]:
            assert isinstance(each, socket.socket)
            each.close()
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait()


@contextmanager
def simulated_hosts(
    sshd: str, folder: Path, number: int, *, silent: Collection[str] = (), endless: Collection[str] = ()
) -> Iterator[SimulatedHosts]:
    """Start hosts in a folder, which gets their keys and inventory; they end with the block.

    Args:
        sshd: The path of OpenSSH's server.
        folder: An empty folder.
        number: How many hosts.
        silent: Addresses that accept a connection and say nothing.
        endless: Addresses where every command prints without end.
    """
    hosts = SimulatedHosts(sshd, folder, number, frozenset(silent))
    hosts.make_files(endless)
    hosts.record()
    hosts.listen()
    thread = threading.Thread(target=hosts.serve)
    thread.start()
    try:
        yield hosts
    finally:
        hosts._ending = True  # noqa: SLF001 - the thread must be gone before the sockets are
        thread.join()
        hosts.end()


def cpu_of_children() -> float:
    """Return the CPU seconds of ended children of this process."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def wait_for_quiet(hosts: SimulatedHosts, limit_s: float = 30.0) -> None:
    """Wait until the servers of the last command have ended."""
    until = time.monotonic() + limit_s
    while hosts._running and time.monotonic() < until:  # noqa: SLF001 - of this module
        time.sleep(0.1)
