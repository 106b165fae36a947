"""Runs that fail before anything is installed, on a real host: each names its cause at the top of its summary.

Runs that fail while the service starts are in `test_provision.py`, which has hosts that serve.
"""

from pathlib import Path

import pytest

from tests.fleet.command_runner import CommandRunner, event
from tests.fleet.hosts import FleetHost, write_inventory


@pytest.fixture
def firstlight(tmp_path: Path) -> CommandRunner:
    return CommandRunner(tmp_path / "logs")


def test_a_full_disk_is_the_cause(pair: list[FleetHost], firstlight: CommandRunner, tmp_path: Path) -> None:
    host = pair[1]
    host.sh("mount -t tmpfs -o size=100M tmpfs /opt")
    try:
        ended = firstlight("provision", "-i", str(host.inventory(tmp_path)))
    finally:
        host.sh("umount /opt")
    assert ended.cause(host.name) == "disk-full"


def test_no_further_batch_begins_after_a_host_whose_disk_is_read_only(
    pair: list[FleetHost], firstlight: CommandRunner, tmp_path: Path
) -> None:
    bad, other = pair
    bad.sh("mount -t tmpfs -o ro tmpfs /opt")
    try:
        ended = firstlight("provision", "-i", str(write_inventory(tmp_path, [bad, other])), "--batch", "50%")
    finally:
        bad.sh("umount /opt")
    assert "--batch 50%" in ended.summary["next_commands"][-1]
    assert ended.host(bad.name)["state"] == "failed", ended.output()
    left = ended.host(other.name)
    assert (left["state"], left["changed"]) == ("interrupted", False)
    assert f"1 failed ({bad.name}), and `--max-fail 0` allows 0" in left["phases"]["stage"]["text"]
    assert other.sh("ls -d /opt/firstlight /var/tmp/firstlight-0 || true") == ""


@pytest.mark.long(seconds=60)
def test_a_wheel_damaged_on_the_host_is_the_cause(
    pair: list[FleetHost], firstlight: CommandRunner, tmp_path: Path
) -> None:
    host = pair[1]
    inventory = str(host.inventory(tmp_path, firstlight_vllm="none"))
    context = firstlight.start("install", "-i", inventory)
    firstlight.wait_for(context, event("sent", host=host.name))
    # The environment is built after packages, account and folders, so there is time; no hash is checked before.
    host.sh("printf x | dd of=$(ls /var/tmp/firstlight-0/sympy-*.whl) bs=1 seek=100000 conv=notrunc status=none")
    ended = firstlight.end(context)
    assert ended.cause(host.name) == "wheel-corrupted"
    assert "sympy" in ended.out
    assert firstlight("uninstall", "-i", inventory).code == 0
