"""One machine: an overlay over the bare root, booted by systemd-nspawn with systemd as PID 1."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.fleet.commands import command

BOOT_S = 120
EMULATED_BOOT_S = 900
_POWER_SUPPLY = """
group=$1; shift
for root in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    [ ! -e "$root/cgroup.procs" ] || { mkdir -p "$root/$group" && echo $$ >"$root/$group/cgroup.procs"; }
done
while "$@"; [ $? -eq 133 ]; do :; done
"""
"""A control group of its own, as otherwise the units of all machines would be in one tree, and each systemd would count the processes of the
others. With --keep-unit, nspawn ends with this exit status when its caller must do a reboot."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Machine:
    """A folder with `fs` (the mounted root), the layer over it, and `pid` of the nspawn process while it runs."""

    def __init__(self, name: str, folder: Path, boot_s: float = BOOT_S) -> None:
        self.name = name
        self.boot_s = boot_s
        self.folder = folder
        self.root = folder / "fs"
        self._process: subprocess.Popen[bytes] | None = None
        self._arguments: list[str] = []

    def mount(self, *below: Path) -> None:
        """Mount an empty layer over the layers of a root, given from top to bottom."""
        for part in ("fs", "upper", "work"):
            (self.folder / part).mkdir(parents=True)
        layers = f"lowerdir={':'.join(map(str, below))},upperdir={self.folder / 'upper'},workdir={self.folder / 'work'}"
        command("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root))

    def unmount(self) -> None:
        """Unmount the root of a machine that does not run; its layer stays."""
        command("umount", str(self.root))

    def boot(self, bridge: str | None = None, *options: str) -> None:
        """Start the machine and wait until systemd reports that it runs. Without arguments, start it as before.

        A failed boot is reported and tried once more, because booting itself is not tested. Raises RuntimeError.
        """
        if bridge is not None:
            self._arguments = [f"--network-bridge={bridge}", *options]
        self._start()
        try:
            self._wait_until_up(other_than=None)
        except RuntimeError as error:
            print(f"\nfleet: booting again: {error}", file=sys.__stderr__, flush=True)
            self.kill()
            self._start()
            self._wait_until_up(other_than=None)

    def _start(self) -> None:
        nspawn = [
            "systemd-nspawn",
            "--quiet",
            f"--directory={self.root}",
            f"--machine={self.name}",
            "--boot",
            "--link-journal=no",
            "--register=no",
            "--keep-unit",
            "--console=pipe",
            *self._arguments,
        ]
        with (self.folder / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", _POWER_SUPPLY, "sh", self.name, *nspawn],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        (self.folder / "pid").write_text(str(self._process.pid))

    @property
    def leader(self) -> int | None:
        """Return the PID of its systemd on this machine."""
        return leader_of(self._process.pid) if self._process is not None else None

    def sh(self, script: str, *, check: bool = True, timeout_s: float = 60) -> str:
        """Run a script inside as root, without SSH. Raises RuntimeError when it fails."""
        leader = self.leader
        if leader is None:
            raise RuntimeError(f"{self.name} does not run")
        inside = (
            "nsenter",
            "--target",
            str(leader),
            "--all",
            "env",
            "-i",
            f"PATH={_PATH}",
            "HOME=/root",
            "LC_ALL=C.UTF-8",
        )
        return command(*inside, "sh", "-c", script, check=check, timeout_s=timeout_s)

    def reboot(self) -> None:
        """Restart as `systemctl reboot` does, and wait until it runs again."""
        before = self.leader
        self.sh("systemctl --no-block reboot")
        self._wait_until_up(other_than=before)

    def kill(self) -> None:
        """Kill the machine: all its processes end at once without a signal."""
        process, self._process = self._process, None
        _end(self.folder, process)

    def _wait_until_up(self, *, other_than: int | None) -> None:
        deadline = time.monotonic() + self.boot_s
        state = "not started"
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            leader = self.leader
            if leader is not None and leader != other_than:
                with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                    state = self.sh("systemctl is-system-running", check=False, timeout_s=10).strip()
                    if state in {"running", "degraded"}:
                        break
            time.sleep(0.2)
        if state == "running":
            return
        failed = self.sh("systemctl --failed --no-legend --plain", check=False) if state == "degraded" else ""
        console = (self.folder / "console.log").read_text(errors="replace")[-1500:]
        raise RuntimeError(f"{self.name} did not come up: {state} {failed.strip()}; its console ends with:\n{console}")

    def remove(self) -> None:
        """Kill the machine, unmount and delete its files."""
        process, self._process = self._process, None
        take_away(self.folder, process)


def leader_of(supply: int) -> int | None:
    """Return the PID of the systemd below the starting shell, or None while there is none."""
    for nspawn in _children(supply, "systemd-nspawn"):
        for leader in _children(nspawn, "systemd"):
            return leader
    return None


def take_away(folder: Path, process: subprocess.Popen[bytes] | None = None) -> None:
    """End a machine and delete its folder, with only the folder, also after a killed test session."""
    _end(folder, process)
    root = str(folder / "fs")
    if os.path.ismount(root):
        command("umount", root, check=False)
    if os.path.ismount(root):
        command("umount", "--lazy", root)
    shutil.rmtree(folder, ignore_errors=True)


def _end(folder: Path, process: subprocess.Popen[bytes] | None) -> None:
    """Kill a machine's PID 1, which ends all its processes, then nspawn, then the shell that started it."""
    pid_file = folder / "pid"
    supply = process.pid if process is not None else _recorded(pid_file)
    if supply is None:
        return
    nspawns = _children(supply, "systemd-nspawn")
    for leader in [leader for nspawn in nspawns for leader in _children(nspawn, "systemd")]:
        _kill(leader)
    if not _gone(supply, process, within_s=10):
        for pid in (supply, *nspawns):
            _kill(pid)
        _gone(supply, process, within_s=10)
    pid_file.unlink(missing_ok=True)


def _recorded(pid_file: Path) -> int | None:
    """Return the PID in a file if it is still a starting shell; PIDs are reused."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        if b"systemd-nspawn" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return None


def _children(pid: int, name: str) -> list[int]:
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [
                int(child)
                for child in children.read_text().split()
                if Path(f"/proc/{child}/comm").read_text().strip() == name
            ]
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _gone(pid: int, process: subprocess.Popen[bytes] | None, *, within_s: float) -> bool:
    """Wait for the end of a process, our child or not."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not _running(pid) if process is None else process.poll() is not None:
            return True
        time.sleep(0.05)
    return False


def _running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
