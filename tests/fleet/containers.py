"""A test host that runs containers itself: what podman needs of systemd-nspawn."""

from tests.fleet.machine import Machine

OPTIONS = ("--system-call-filter=@keyring",)
"""crun makes a keyring for each container."""
STORAGE = "/var/lib/containers"
UNIT = """[Unit]
DefaultDependencies=no
Before=sysinit.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'for folder in /sys/fs/cgroup/*/; do mount -o remount,bind,rw "$folder" || true; done'
"""
"""nspawn makes the control groups of version 1 read-only, except systemd's."""


def prepare(machine: Machine) -> tuple[str, ...]:
    """Let a machine that was not booted yet run containers; return the options of nspawn for it."""
    # Layers of images cannot lie in the overlay of the machine's root.
    storage = machine.folder / "containers"
    storage.mkdir()
    units = machine.root / "etc/systemd/system"
    name = "writable-control-groups.service"
    (units / name).write_text(UNIT)
    (units / "sysinit.target.wants").mkdir(exist_ok=True)
    (units / "sysinit.target.wants" / name).symlink_to(f"../{name}")
    return (f"--bind={storage}:{STORAGE}", *OPTIONS)
