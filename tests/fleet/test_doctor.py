"""The doctor on a real host: it reads the host's logs, asks, repairs one cause, and verifies that it is gone.

Repairs of causes that need an installation are in `test_provision.py`.
"""

import json
from pathlib import Path

import pytest

from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import SUDO_WITHOUT_PASSWORD, FleetHost

UNIT = "nvidia-fabricmanager.service"
COMPLAINT = (
    "fabric manager: request to query NVSwitch device information from NVSwitch driver failed with error: "
    "WARNING Nothing to do [NV_WARN_NOTHING_TO_DO]"
)


@pytest.mark.long(seconds=65)
def test_a_cause_is_found_on_a_host_and_repaired_only_with_consent(pair: list[FleetHost], tmp_path: Path) -> None:
    """An unneeded fabric manager fails at boot."""
    host, firstlight = pair[0], CommandRunner(tmp_path / "logs")
    unit = f"[Service]\nExecStart=/bin/sh -c 'echo \"{COMPLAINT}\"; exit 1'\n[Install]\nWantedBy=multi-user.target\n"
    host.sh(
        f"cat > /etc/systemd/system/{UNIT} <<'END'\n{unit}END\n"
        f"systemctl daemon-reload; systemctl enable {UNIT}; systemctl start {UNIT}; "
        f"until systemctl is-failed --quiet {UNIT}; do sleep 0.1; done"
    )
    inventory = str(host.inventory(tmp_path, user=SUDO_WITHOUT_PASSWORD, ansible_become=True))
    asked = ("doctor", "--limit", host.name, "-i", inventory)

    ended = firstlight(*asked, "--json", code=0)
    [document] = json.loads(ended.out)
    assert document["findings"][0]["cause"] == "fabric-manager-not-needed"
    assert document["findings"][0]["evidence"][0]["file"] == "fabric_manager"
    absent = {source["name"]: source["absent"] for source in document["sources"]}
    assert absent["nvidia_smi"] == "nvidia-smi is not there"
    assert absent["service_journal"] == "there is no firstlight-vllm.service"

    ended = firstlight(*asked, "--apply", code=1)  # standard input is empty, so there is no consent
    assert "--tags no-fabric-manager" in ended.err
    assert host.sh(f"systemctl is-enabled {UNIT}").strip() == "enabled"

    ended = firstlight(*asked, "--apply", "--yes", code=0)
    assert "fabric-manager-not-needed: gone" in ended.out
    assert host.sh(f"systemctl is-enabled {UNIT}", check=False).strip() == "disabled"
    assert host.sh(f"systemctl show -P ActiveState {UNIT}").strip() == "inactive"


UVM = (
    "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment, "
    "e.g. changing env variable CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero."
)
NOT_READY = "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized"
PROGRAMS = {
    "modprobe": '[ "$1" != nvidia_uvm ] || mknod /dev/nvidia-uvm c 1 3',
    "nvidia-smi": "[ -c /dev/nvidia-uvm ] || [ \"$1\" != -L ] || exit 9; echo 'GPU 0: NVIDIA L4 (UUID: GPU-0a1b2c3d)'",
}
"""Substitutes for the driver's programs: loading the module makes the device node, and then the cards are listed."""
SWITCH = {"vendor": "0x10de", "device": "0x22a3", "class": "0x068000"}
"""An NVSwitch as the bus shows it."""


@pytest.mark.parametrize(
    ("message", "cause", "seen"),
    [
        (UVM, "nvidia-uvm", "test -c /dev/nvidia-uvm"),
        (NOT_READY, "fabric-manager", f"systemctl is-active {UNIT} && systemctl is-enabled {UNIT}"),
    ],
)
def test_causes_of_hosts_with_cards_are_repaired_as_far_as_no_card_is_needed(
    pair: list[FleetHost], tmp_path: Path, message: str, cause: str, seen: str
) -> None:
    host = pair[1]
    for name, script in PROGRAMS.items():
        host.sh(f"cat > /usr/local/sbin/{name} <<'END'\n#!/bin/sh\n{script}\nEND\nchmod +x /usr/local/sbin/{name}")
    board = "/run/board/devices/0000:05:00.0"
    host.sh(f"mkdir -p {board}; " + "".join(f"echo {value} >{board}/{name}; " for name, value in SWITCH.items()))
    host.sh("mount --bind /run/board /sys/bus/pci")
    manager = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
    service = f"[Service]\nExecStart=/bin/sh -c 'echo \"{message}\"; exit 1'\n"
    host.sh(
        f"cat > /etc/systemd/system/{UNIT} <<'END'\n{manager}END\n"
        f"cat > /etc/systemd/system/firstlight-vllm.service <<'END'\n{service}END\n"
        f"systemctl daemon-reload; systemctl disable --now {UNIT}; systemctl start firstlight-vllm.service; "
        "until systemctl is-failed --quiet firstlight-vllm.service; do sleep 0.1; done"
    )
    asked = ("doctor", "--limit", host.name, "-i", str(host.inventory(tmp_path)), "--apply", "--yes")
    ended = CommandRunner(tmp_path / "logs")(*asked, code=0)
    assert f"{cause}: gone" in ended.out
    host.sh(seen)
    host.sh(
        f"systemctl disable --now {UNIT}; systemctl reset-failed firstlight-vllm.service; umount /sys/bus/pci; rm -rf /opt/firstlight /dev/nvidia-uvm "
        f"/usr/local/sbin/modprobe /usr/local/sbin/nvidia-smi /etc/systemd/system/{UNIT} "
        "/etc/systemd/system/firstlight-vllm.service; systemctl daemon-reload"
    )
