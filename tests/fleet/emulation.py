"""Hosts of another architecture: qemu-user runs their programs, on this machine's kernel."""

import os
from pathlib import Path

from tests.fleet.commands import command

ARM64 = "arm64"
"""Debian's name of the architecture whose machine name is aarch64."""
_NAMES = {ARM64: "qemu-aarch64"}
_RULES = Path("/usr/lib/binfmt.d")
_KERNEL = Path("/proc/sys/fs/binfmt_misc")
_CREDENTIALS = ("systemd-sysctl", "systemd-sysusers", "systemd-tmpfiles-setup", "systemd-tmpfiles-setup-dev")
"""Units that mount credentials: qemu 7.2 refuses the system call with EINVAL."""
_NETWORK = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/ip address add {address} dev host0
ExecStart=/bin/ip link set host0 up
ExecStart=/bin/ip route add default via {gateway}
"""


def why_not(architecture: str) -> str | None:
    """Return why this machine cannot run programs of an architecture; None if it can."""
    if not (_RULES / f"{_NAMES[architecture]}.conf").exists():
        return f"hosts of {architecture} want qemu-user-static"
    return None


def emulate(architecture: str) -> None:
    """Have the kernel start programs of an architecture by qemu, in every root: Debian's rule has flag F, which opens qemu now."""
    if not os.path.ismount(_KERNEL):
        command("mount", "-t", "binfmt_misc", "binfmt_misc", str(_KERNEL))
    name = _NAMES[architecture]
    if not (_KERNEL / name).exists():
        (_KERNEL / "register").write_text((_RULES / f"{name}.conf").read_text(encoding="utf-8"), encoding="utf-8")


def adapt(root: Path, address: str, gateway: str) -> None:
    """Replace in a root what systemd cannot do under qemu: mount credentials, and listen to the network with systemd-networkd."""
    units = root / "etc/systemd/system"
    for name in _CREDENTIALS:
        (units / f"{name}.service.d").mkdir(parents=True)
        (units / f"{name}.service.d/emulated.conf").write_text("[Service]\nLoadCredential=\nSetCredential=\n")
    (units / "multi-user.target.wants/systemd-networkd.service").unlink()
    (units / "multi-user.target.wants/host0.service").symlink_to("../host0.service")
    (units / "host0.service").write_text(_NETWORK.format(address=address, gateway=gateway))
