"""Real test hosts: booted, reachable over SSH, known by key, with the usual kinds of users."""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.fleet import containers as containers_of_hosts
from tests.fleet import disk
from tests.fleet.commands import command
from tests.fleet.emulation import adapt
from tests.fleet.layers import root_with
from tests.fleet.machine import BOOT_S, EMULATED_BOOT_S, Machine, take_away
from tests.fleet.network import Network
from tests.fleet.online import connect_to_registries
from tests.fleet.root import BOOKWORM, cache_folder

SUDO_WITH_PASSWORD = "admin"
SUDO_WITHOUT_PASSWORD = "deploy"
NO_SUDO = "guest"
SHARING_CORES: dict[str, Any] = {
    # Threads that wait must sleep, not spin.
    "firstlight_env": {"OMP_WAIT_POLICY": "passive"},
    "firstlight_vllm_args": ["--enforce-eager"],
}
"""Settings with which hosts of one machine serve together, and start sooner."""


@dataclass(frozen=True, slots=True)
class FleetHost:
    """One host. `users` and their key are the same on all."""

    name: str
    address: str
    key_file: Path
    known_hosts: Path
    admin_password: str
    machine: Machine

    def inventory_entry(self, user: str = "root") -> dict[str, Any]:
        """Return Ansible's variables for this host, without the user's own ssh configuration."""
        return {
            "ansible_host": self.address,
            "ansible_user": user,
            "ansible_ssh_private_key_file": str(self.key_file),
            "ansible_ssh_common_args": f"-F none -o IdentitiesOnly=yes -o UserKnownHostsFile={self.known_hosts} -o GlobalKnownHostsFile=none",
        }

    def inventory(self, folder: Path, *, user: str = "root", **variables: Any) -> Path:
        """Write an inventory file with only this host."""
        return write_inventory(folder, [self], user=user, **variables)

    def sh(self, script: str, *, check: bool = True, timeout_s: float = 60) -> str:
        """Run a script as root, without SSH. Raises RuntimeError when it fails."""
        return self.machine.sh(script, check=check, timeout_s=timeout_s)

    def reboot(self) -> None:
        """Restart the host; returns when it runs again."""
        self.machine.reboot()

    def kill(self) -> None:
        """Stop the host as by a power cut."""
        self.machine.kill()

    def boot(self) -> None:
        """Boot again after a power cut."""
        self.machine.boot()

    def remove(self) -> None:
        """Remove the host before the session ends."""
        self.machine.remove()


def write_inventory(folder: Path, hosts: list[FleetHost], *, user: str = "root", **variables: Any) -> Path:
    """Write an inventory file with these hosts in a group `fleet`; the variables apply to all of them."""
    content = {"fleet": {"hosts": {host.name: host.inventory_entry(user) for host in hosts}, "vars": variables}}
    path = folder / "hosts.yml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")  # JSON is YAML
    return path


class Fleet:
    """All hosts of one test session, and everything that is removed when it ends."""

    def __init__(self) -> None:
        self.name = f"flt{os.getpid() % 0xFFFFF:05x}"
        self.folder = _running() / self.name
        # Another session that starts now must not see the folder without its owner, and remove it.
        draft = self.folder.with_name(f".{self.name}")
        draft.mkdir(parents=True)
        (draft / "owner").write_text(_identity(os.getpid()))
        draft.rename(self.folder)
        self.disk = self.folder / "disk"
        disk.attach(self.disk)
        self._end_trimming = disk.regularly(partial(disk.trim, self.disk))
        self.key_file = self.folder / "id_ed25519"
        command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test fleet", "-f", str(self.key_file))
        self.known_hosts = self.folder / "known_hosts"
        self.known_hosts.touch()
        self.admin_password = secrets.token_hex(8)
        # Root's processes on all hosts share one limit, and systemd needs several of these on each.
        command("sysctl", "-qw", "fs.inotify.max_user_instances=1024")
        with (cache_folder() / "network.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two sessions could choose the same free addresses
            self.network = Network.make(self.name)
        self._open = False
        self.hosts: list[FleetHost] = []
        self.shared: list[FleetHost] = []
        """Those that tests of several files use."""

    def boot(
        self,
        count: int = 1,
        *,
        online: bool = False,
        packages: Sequence[str] = (),
        suite: str = BOOKWORM,
        architecture: str | None = None,
        layers: Sequence[Path] = (),
        folder: Path | None = None,
        containers: bool = False,
    ) -> list[FleetHost]:
        """Boot bare hosts of a Debian at the same time, or hosts with more packages, or with the layers of a snapshot.

        Online hosts reach what this machine reaches. Their files are on the fleet's own disk, or in `folder`.
        Those of another architecture (Debian's name) are emulated, and slow. With `containers` podman can run some there.
        """
        below = layers or root_with(packages, suite, architecture)
        hosts = [self._host(below, folder, architecture) for _ in range(count)]
        options: list[str] = []
        if online:
            if not self._open:
                self.network.open()
                self._open = True
            options = [option for host in hosts for option in connect_to_registries(host.machine.root)]
        if containers:
            options += [option for host in hosts for option in containers_of_hosts.prepare(host.machine)]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda host: host.machine.boot(self.network.name, *dict.fromkeys(options)), hosts))
        return hosts

    def boot_copies(self, pattern: FleetHost, count: int) -> list[FleetHost]:
        """Boot hosts that begin with the files of a bare host without packages of ours; that one is switched off for good."""
        pattern.machine.kill()
        pattern.machine.unmount()
        return self.boot(count, layers=(pattern.machine.folder / "upper", *root_with(())))

    def _host(self, layers: Sequence[Path], folder: Path | None, architecture: str | None) -> FleetHost:
        number = len(self.hosts) + 1
        name, address = f"host{number}", self.network.address(number)
        machine = Machine(
            f"{self.name}{number}", (folder or self.disk) / name, EMULATED_BOOT_S if architecture else BOOT_S
        )
        machine.mount(*layers)
        furnish(
            machine.root, name, f"{address}/24", self.network.gateway, self.key_file.with_suffix(".pub").read_text()
        )
        if architecture:
            adapt(machine.root, f"{address}/24", self.network.gateway)
        make_users(machine.root, self.admin_password)
        keys = sorted((machine.root / "etc/ssh").glob("ssh_host_*_key.pub"))
        with self.known_hosts.open("a") as known:
            known.writelines(f"{address} {' '.join(key.read_text().split()[:2])}\n" for key in keys)
        self.hosts.append(FleetHost(name, address, self.key_file, self.known_hosts, self.admin_password, machine))
        return self.hosts[-1]

    def remove_hosts(self) -> None:
        """Remove the hosts that are not shared: each may hold gigabytes."""
        for host in self.hosts:
            if host not in self.shared:
                host.remove()

    def remove(self) -> None:
        """Remove all hosts and the network."""
        self._end_trimming()
        remove_session(self.folder)


def furnish(root: Path, name: str, address: str, gateway: str, public_key: str) -> None:
    """Give a root a name, an address, its own host keys, and a login for root."""
    (root / "etc/hostname").write_text(f"{name}\n")
    (root / "etc/machine-id").write_text("")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text("")
    (root / "etc/systemd/network").mkdir(parents=True, exist_ok=True)
    (root / "etc/systemd/network/10-host0.network").write_text(
        f"[Match]\nName=host0\n[Network]\nAddress={address}\nGateway={gateway}\n"
    )
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "systemd-networkd.service").unlink(missing_ok=True)
    (wants / "systemd-networkd.service").symlink_to("/lib/systemd/system/systemd-networkd.service")
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    command("ssh-keygen", "-A", "-f", str(root))
    authorize(root / "root", public_key, 0, 0)


def make_users(root: Path, password: str) -> None:
    """Make three users: one whose sudo asks for a password, one whose sudo asks for none, one without sudo."""
    public_key = (root / "root/.ssh/authorized_keys").read_text()
    present = (root / "etc/passwd").read_text()
    for user in (SUDO_WITH_PASSWORD, SUDO_WITHOUT_PASSWORD, NO_SUDO):
        if f"\n{user}:" not in present:
            command("chroot", str(root), "useradd", "--create-home", "--shell", "/bin/sh", user)
        account = command("chroot", str(root), "id", "-u", user).strip()
        authorize(root / "home" / user, public_key, int(account), int(account))
    command("chroot", str(root), "chpasswd", stdin=f"{SUDO_WITH_PASSWORD}:{password}\n")
    rules = root / "etc/sudoers.d/fleet"
    rules.write_text(f"{SUDO_WITH_PASSWORD} ALL=(ALL) ALL\n{SUDO_WITHOUT_PASSWORD} ALL=(ALL) NOPASSWD: ALL\n")
    rules.chmod(0o440)


def authorize(home: Path, public_key: str, uid: int, gid: int) -> None:
    """Allow logins with a key."""
    folder = home / ".ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "authorized_keys").write_text(public_key)
    for path in (folder, folder / "authorized_keys"):
        os.chown(path, uid, gid)


def remove_session(folder: Path) -> None:
    """Remove a session's hosts and network, with only its folder."""
    for machine in [path for path in folder.glob("disk/host*") if path.is_dir()]:
        take_away(machine)
    disk.detach(folder / "disk")
    Network(folder.name, "").remove()
    sweep(folder.name)
    shutil.rmtree(folder, ignore_errors=True)


def sweep(name: str) -> None:
    """Remove empty folders that nspawn leaves: its mount points, and the control groups of the machines."""
    for point in Path("/run/systemd/nspawn/propagate").glob(f"{name}*"):
        with contextlib.suppress(OSError):
            point.rmdir()
    control_groups = Path("/sys/fs/cgroup")
    for group in [*control_groups.glob(f"*/{name}*"), *control_groups.glob(f"{name}*")]:
        below = sorted((path for path in group.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
        for path in [*below, group]:
            with contextlib.suppress(OSError):
                path.rmdir()


def remove_leftovers(say: Callable[[str], None]) -> None:
    """Remove the remains of killed sessions, whose process no longer exists."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / "leftovers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes of a session begin at once, and find the same remains
        for folder in sorted(_running().glob("flt*")):
            owner = folder / "owner"
            alive = owner.exists() and owner.read_text() == _identity(int(owner.read_text().split()[0] or 0))
            if not alive:
                say(f"removing the hosts of a test session that was killed: {folder.name}")
                remove_session(folder)


def _running() -> Path:
    return cache_folder() / "running"


def _identity(pid: int) -> str:
    """Return a process's PID and start time, because PIDs are reused; empty when it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return f"{pid} {stat.rpartition(')')[2].split()[19]}"
