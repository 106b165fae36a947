"""The product as a tool on a bare host: `uvx`, `pipx` and `uv tool install`, a first run, a question to the model."""

import json
import shutil
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.fleet.hosts import Fleet
from tests.fleet.test_newcomer import log_in
from tests.house.test_wheel import build

pytestmark = pytest.mark.long(seconds=190)


def test_a_bare_host_serves_by_the_installed_tool(fleet: Fleet, tmp_path: Path) -> None:
    [host] = fleet.boot(1, online=True)
    root = host.machine.root / "root"
    wheel, source = build(tmp_path / "wheel"), build(tmp_path / "source", "sdist")
    shutil.copy(wheel, root)
    shutil.copy(source, root)
    for program in ("uv", "uvx"):
        shutil.copy(Path(find_uv_bin()).with_name(program), host.machine.root / "usr/local/bin")
    # Debian's own pipx is not on the host; uv runs the one of the package index.
    planned = log_in(host, f"uvx -q --from /root/{wheel.name} firstlight plan --what-if 8xH100 2>&1", timeout_s=120)
    assert "vLLM" in planned, planned
    log_in(host, f"uvx -q pipx install --quiet /root/{source.name} 2>&1", timeout_s=180)
    assert "firstlight" in log_in(host, "/root/.local/bin/firstlight --version; uvx -q pipx uninstall firstlight 2>&1")
    log_in(host, f"uv tool install -q --python /usr/bin/python3 /root/{wheel.name}")
    installed = "export PATH=$PATH:/root/.local/bin"
    output = log_in(host, f"{installed}; cd / && firstlight provision 2>&1")
    summary = json.loads(host.sh("cat /root/.local/state/firstlight/logs/latest/summary.json"))
    assert summary["verdict"] == "green", output
    assert "./firstlight" not in output
    answer = log_in(host, f"{installed}; firstlight chat localhost 'Say hello.' 2>&1", timeout_s=120)
    assert answer.strip(), answer
    again = log_in(host, f"{installed}; firstlight provision 2>&1", timeout_s=120)
    assert "unchanged" in again, again
    log_in(host, f"{installed}; firstlight uninstall --yes 2>&1", timeout_s=180)
    assert host.sh("ls -d /opt/firstlight /etc/systemd/system/firstlight* 2>/dev/null; true").strip() == ""
