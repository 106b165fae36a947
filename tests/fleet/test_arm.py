"""An emulated Arm host, booted and probed over SSH: its plan. The first run also makes its Debian, for about 20 minutes.

`benchmarks/arm.py` goes further: it installs, loads and removes real aarch64 wheels, for longer than a test may take.
"""

import json
from pathlib import Path

import pytest

from provision.catalog import catalog
from provision.catalog.versions import newest_first
from tests.fleet.cards import ARM_RECORDING, boot_arm, recorded, show
from tests.fleet.command_runner import CommandRunner
from tests.fleet.emulation import ARM64
from tests.fleet.fixtures import require_hosts
from tests.fleet.hosts import Fleet

pytestmark = pytest.mark.long(seconds=420)
DRIVER = "580.178.04"
NEWEST = newest_first(catalog().releases)[0].version


def test_a_grace_hopper_gets_the_newest_cuda_combination_for_aarch64(fleet: Fleet, tmp_path: Path) -> None:
    require_hosts(ARM64)
    host = boot_arm(fleet)
    show(host, recorded(ARM_RECORDING), driver=DRIVER)
    asked = ("plan", "-i", str(host.inventory(tmp_path)), "--vllm", "newest", "--json")
    ended = CommandRunner(tmp_path / "logs")(*asked, code=0)
    stack = json.loads(ended.out)["stack"]
    assert (stack["vllm"]["version"], stack["platform"]) == (NEWEST, "aarch64-manylinux_2_36")
    assert stack["vllm"]["variant"].startswith("cu")
    host.remove()
