"""A test host of the fleet as a site: system-wide installation under systemd, bytes sent over SSH."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from tests.fleet.hosts import FleetHost
from tests.install.conftest import Site, make_site

UNIT = """\
[Unit]
Description=Test service

[Service]
User=firstlight
EnvironmentFile={prefix}/etc/service.env
ExecStart={prefix}/current/bin/python -m http.server --bind 127.0.0.1 8000 --directory {prefix}/models

[Install]
WantedBy=multi-user.target
"""


class FleetSite(Site):
    """A site as on this machine, but over SSH."""

    fleet_host: FleetHost
    user: str = "root"
    become: dict[str, Any]

    def host(self) -> Host:
        entry = self.fleet_host.inventory_entry(self.user)
        options = ("-F", "none", "-i", str(self.fleet_host.key_file), "-o", "IdentitiesOnly=yes")
        known = ("-o", f"UserKnownHostsFile={self.fleet_host.known_hosts}", "-o", "GlobalKnownHostsFile=none")
        return Host(
            name=self.name,
            connection=Connection(
                kind="ssh",
                address=entry["ansible_host"],
                user=self.user,
                openssh_options=(*options, *known),
                become=self.user != "root",
                **self.become,
            ),
            settings=Settings(),
        )

    def send(self, *files: Path) -> None:
        """Send all files of the plan, and more files, to the incoming folder of the host."""
        local = self.folder / "outgoing"
        local.mkdir(exist_ok=True)
        for file in files:
            shutil.copy(file, local)
        kept, self.variables["firstlight_incoming"] = self.variables["firstlight_incoming"], str(local)
        super().send()
        self.variables["firstlight_incoming"] = kept
        connection = self.host().connection
        there = f"mkdir -p {kept} && tar -xf - -C {kept}"
        with subprocess.Popen(["tar", "-cf", "-", "-C", str(local), "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(
                ["ssh", *connection.openssh_options, f"{self.user}@{connection.address}", there],
                stdin=tar.stdout,
                check=True,
            )


def make_fleet_site(folder: Path, fleet_host: FleetHost, *, user: str = "root", **become: Any) -> FleetSite:
    """Return a bare host of the fleet for a system-wide installation."""
    local = make_site(folder)
    prefix = "/opt/firstlight"
    site = FleetSite(folder=folder, variables=local.variables, wheels=local.wheels, name=fleet_host.name)
    site.fleet_host, site.user, site.become = fleet_host, user, become
    interpreter = {"origin": "host", "path": "/usr/bin/python3", "archive": None, "version": "3.11"}
    site.plan(
        firstlight_prefix=prefix,
        firstlight_incoming="/var/tmp/firstlight-0",
        firstlight_owner="firstlight",
        firstlight_root=True,
        firstlight_environment={**local.variables["firstlight_environment"], "interpreter": interpreter},
        firstlight_service={
            **local.variables["firstlight_service"],
            "supervisor": "systemd",
            "unit": UNIT.format(prefix=prefix),
            "unit_path": "/etc/systemd/system/firstlight-vllm.service",
        },
    )
    return site
