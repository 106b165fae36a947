"""Installation paths on a host, known once it was probed."""

from pathlib import PurePosixPath
from typing import Any

from provision.core.models.base import Record
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host

SERVICE_USER = "firstlight"
HOST_PYTHON = "/usr/bin/python3"
"""Where role `base` installs a missing Python."""


def default_prefix(*, uid: int, home: str) -> PurePosixPath:
    """Return the default prefix of a user's installation."""
    return PurePosixPath("/opt/firstlight") if uid == 0 else PurePosixPath(home) / ".local/share/firstlight"


def prefix_of(host: Host, *, uid: int, home: str) -> str:
    """Return the prefix of a host: its own, else the default of the user that installs; of a service it ends with `@` and its name."""
    prefix = (host.settings.prefix or str(default_prefix(uid=uid, home=home))).rstrip("/")
    return f"{prefix}@{host.service.name}" if host.service else prefix


def unit_of(service: str | None, unit: str = "firstlight-vllm.service") -> str:
    """Return the name of a unit of one service: `firstlight-vllm@chat.service`. `service` is None where the machine has only one."""
    name, dot, kind = unit.rpartition(".")
    return f"{name}{f'@{service}' if service else ''}{dot}{kind}"


class InstallPaths(Record):
    """Installation paths on a host, and the account used there."""

    prefix: str
    incoming: str
    """Upload folder of the login user, on a file system that survives a reboot."""
    owner: str
    """Account of the service."""
    root: bool
    """Whether the installation is system-wide."""
    service: str | None = None
    """Name of the service; None where the machine has one service."""

    @property
    def unit(self) -> str:
        """Return the unit that serves."""
        return unit_of(self.service)

    def ansible_vars(self) -> dict[str, Any]:
        """Return the variables that every playbook reads."""
        return {
            "firstlight_prefix": self.prefix,
            "firstlight_incoming": self.incoming,
            "firstlight_owner": self.owner,
            "firstlight_root": self.root,
        }


def install_paths_of(host: Host, facts: HostFacts) -> InstallPaths:
    """Return the paths of a host: system-wide for root or with `become`, else below the user's home."""
    root = facts.user.uid == 0 or host.connection.become
    uid = 0 if root or facts.user.uid is None else facts.user.uid
    prefix = prefix_of(host, uid=uid, home=facts.user.home or "/root")
    owner = SERVICE_USER if root else (facts.user.name or SERVICE_USER)
    service = host.service.name if host.service else None
    # Models of two services have files of one name.
    incoming = f"/var/tmp/firstlight-{facts.user.uid}{f'@{service}' if service else ''}"  # noqa: S108 - on the host; 0700, its owner is checked there
    return InstallPaths(prefix=prefix, incoming=incoming, owner=owner, root=root, service=service)
