"""Where this product is on a host: what is known of it as soon as the host was looked at."""

from __future__ import annotations

from typing import Any

from provision.core.models.base import Record
from provision.core.models.facts import HostFacts
from provision.core.models.settings import Host, default_prefix

SERVICE_USER = "firstlight"


class InstallPaths(Record):
    """Where this product is on a host, and as whom it acts there."""

    prefix: str
    incoming: str
    """Where bytes arrive: the login user's own folder, on a file system that outlives a reboot."""
    owner: str
    """Account that the service runs as."""
    root: bool
    """Whether the installation is system-wide."""

    def ansible_vars(self) -> dict[str, Any]:
        """What every playbook reads."""
        return {
            "firstlight_prefix": self.prefix,
            "firstlight_incoming": self.incoming,
            "firstlight_owner": self.owner,
            "firstlight_root": self.root,
        }


def install_paths_of(host: Host, facts: HostFacts) -> InstallPaths:
    """System-wide where the login is root or the inventory lets it become root; else under the user's home."""
    root = facts.user.uid == 0 or host.connection.become
    uid = 0 if root or facts.user.uid is None else facts.user.uid
    prefix = host.settings.prefix or str(default_prefix(uid=uid, home=facts.user.home or "/root"))
    owner = SERVICE_USER if root else (facts.user.name or SERVICE_USER)
    incoming = f"/var/tmp/firstlight-{facts.user.uid}"  # noqa: S108 - on the host; 0700, its owner is checked there
    return InstallPaths(prefix=prefix.rstrip("/"), incoming=incoming, owner=owner, root=root)
