"""A user without root with lingering sessions: the service is a unit of the user's systemd and starts again after a reboot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import NO_SUDO, Fleet, FleetHost
from tests.fleet.layers import FOR_A_USER
from tests.fleet.serving import ask, checks_of_what_serves, wait_until_healthy

PORT = 8124
HOME = f"/home/{NO_SUDO}/.local/share/firstlight"
AS_USER = f"runuser -u {NO_SUDO} -- env XDG_RUNTIME_DIR=/run/user/$(id -u {NO_SUDO}) systemctl --user"


@pytest.fixture(scope="module")
def lingering(fleet: Fleet) -> FleetHost:
    """A host whose administrator installed the OS packages and enabled lingering for one user."""
    [host] = fleet.boot(1, packages=FOR_A_USER)
    host.sh(f"loginctl enable-linger {NO_SUDO}")
    return host


def test_the_users_service_survives_a_reboot_and_is_removed_completely(lingering: FleetHost, tmp_path: Path) -> None:
    firstlight = CommandRunner(tmp_path / "logs")
    inventory = str(lingering.inventory(tmp_path, user=NO_SUDO, firstlight_port=PORT))
    ended = firstlight("provision", "-i", inventory)
    assert ended.code == 0, ended.output()
    host = ended.host(lingering.name)
    assert (host["state"], host["stack"]["supervisor"]) == ("serving", "systemd-user")
    assert "survive a reboot" not in ended.out
    assert lingering.sh(f"{AS_USER} is-enabled firstlight-vllm.service").strip() == "enabled"
    assert firstlight("provision", "-i", inventory).summary["changed"] == 0
    found = checks_of_what_serves(firstlight, "-i", inventory)
    assert {check["status"] for check in found.values()} == {"ok"}, found

    lingering.reboot()
    wait_until_healthy(lingering, port=PORT)
    assert ask(lingering, prefix=HOME, port=PORT)["with"][0] == 200
    ended = firstlight("provision", "-i", inventory)
    assert (ended.code, ended.summary["changed"]) == (0, 0), ended.output()

    ended = firstlight("uninstall", "-i", inventory)
    assert ended.code == 0, ended.output()
    assert lingering.sh(f"ls -d {HOME} /home/{NO_SUDO}/.config/systemd/user/firstlight* 2>/dev/null; true") == ""
    assert lingering.sh(f"pgrep -u {NO_SUDO} -f vllm || true").strip() == ""
