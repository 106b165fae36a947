"""A user without root has a service of their own: under supervisor at first, and with lingering sessions a unit that outlives a reboot.

The tests of this file run in order on one host; each continues from the state that the one before left.
"""

from pathlib import Path

import pytest

from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import NO_SUDO, Fleet, FleetHost
from tests.fleet.layers import FOR_A_USER
from tests.fleet.serving import ask, checks_of_what_serves, wait_until_healthy

pytestmark = pytest.mark.long(seconds=320)
PORT = 8124
HOME = f"/home/{NO_SUDO}/.local/share/firstlight"
AS_USER = f"runuser -u {NO_SUDO} -- env XDG_RUNTIME_DIR=/run/user/$(id -u {NO_SUDO}) systemctl --user"


@pytest.fixture(scope="module")
def host(fleet: Fleet) -> FleetHost:
    """A host whose administrator installed the OS packages."""
    [host] = fleet.boot(1, packages=FOR_A_USER)
    return host


@pytest.fixture(scope="module")
def inventory(host: FleetHost, folder: Path) -> str:
    return str(host.inventory(folder / "first", user=NO_SUDO, firstlight_port=PORT))


def test_a_user_without_root_gets_an_installation_of_their_own(
    firstlight: CommandRunner, host: FleetHost, inventory: str
) -> None:
    ended = firstlight("provision", "-i", inventory, code=0)
    assert ended.host(host.name)["stack"]["supervisor"] == "supervisor"
    assert "survive a reboot" in ended.out
    assert ask(host, prefix=HOME, port=PORT)["with"][0] == 200
    ended = firstlight.changes_nothing("provision", "-i", inventory)
    assert ended.host(host.name)["state"] == "unchanged"


def test_with_lingering_sessions_the_service_becomes_a_unit_and_survives_a_reboot(
    firstlight: CommandRunner, host: FleetHost, inventory: str
) -> None:
    host.sh(f"loginctl enable-linger {NO_SUDO}")
    ended = firstlight("provision", "-i", inventory, code=0)
    summary = ended.host(host.name)
    assert (summary["state"], summary["stack"]["supervisor"]) == ("serving", "systemd-user")
    assert "survive a reboot" not in ended.out
    assert host.sh(f"{AS_USER} is-enabled firstlight-vllm.service").strip() == "enabled"
    found = checks_of_what_serves(firstlight, "-i", inventory)
    assert {check["status"] for check in found.values()} == {"ok"}, found

    host.reboot()
    wait_until_healthy(host, port=PORT)
    assert ask(host, prefix=HOME, port=PORT)["with"][0] == 200
    firstlight.changes_nothing("provision", "-i", inventory)


def test_it_is_removed_completely(firstlight: CommandRunner, host: FleetHost, inventory: str) -> None:
    firstlight("uninstall", "-i", inventory, code=0)
    assert host.sh(f"ls -d {HOME} /home/{NO_SUDO}/.config/systemd/user/firstlight* 2>/dev/null; true") == ""
    assert host.sh(f"pgrep -u {NO_SUDO} -f vllm || true").strip() == ""
