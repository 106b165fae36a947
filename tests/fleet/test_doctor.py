"""The doctor at a real host: it reads what is there, asks, mends one cause, and sees that it is gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fleet.hosts import SUDO_WITHOUT_PASSWORD, FleetHost
from tests.fleet.walks import Walker

pytestmark = pytest.mark.fleet

UNIT = "nvidia-fabricmanager.service"
COMPLAINT = (
    "fabric manager: request to query NVSwitch device information from NVSwitch driver failed with error: "
    "WARNING Nothing to do [NV_WARN_NOTHING_TO_DO]"
)


@pytest.fixture
def host(pair: list[FleetHost]) -> FleetHost:
    """A host on which a fabric manager that nobody needs fails at boot."""
    unit = f"[Service]\nExecStart=/bin/sh -c 'echo \"{COMPLAINT}\"; exit 1'\n[Install]\nWantedBy=multi-user.target\n"
    pair[0].sh(
        f"cat > /etc/systemd/system/{UNIT} <<'END'\n{unit}END\n"
        f"systemctl daemon-reload; systemctl enable {UNIT}; systemctl start {UNIT}; "
        f"until systemctl is-failed --quiet {UNIT}; do sleep 0.1; done"
    )
    return pair[0]


def test_a_cause_is_found_on_a_host_and_mended_only_with_consent(host: FleetHost, tmp_path: Path) -> None:
    firstlight = Walker(tmp_path / "logs")
    inventory = str(host.inventory(tmp_path, user=SUDO_WITHOUT_PASSWORD, ansible_become=True))
    asked = ("doctor", "--host", host.name, "-i", inventory)

    ended = firstlight(*asked, "--json")
    assert ended.code == 0, ended.told()
    [document] = json.loads(ended.out)
    assert document["findings"][0]["cause"] == "fabric-manager-not-needed"
    assert document["findings"][0]["evidence"][0]["file"] == "fabric_manager"
    absent = {source["name"]: source["absent"] for source in document["sources"]}
    assert absent["nvidia_smi"] == "nvidia-smi is not there"
    assert absent["service_journal"] == "there is no firstlight-vllm.service"

    ended = firstlight(*asked, "--apply")  # standard input is at its end: no yes
    assert ended.code == 1, ended.told()
    assert "--tags no-fabric-manager" in ended.err
    assert host.sh(f"systemctl is-enabled {UNIT}").strip() == "enabled"

    ended = firstlight(*asked, "--apply", "--yes")
    assert ended.code == 0, ended.told()
    assert "fabric-manager-not-needed: gone" in ended.out
    assert host.sh(f"systemctl is-enabled {UNIT}", check=False).strip() == "disabled"
    assert host.sh(f"systemctl show -P ActiveState {UNIT}").strip() == "inactive"
