"""The README's first command as a new user types it: this checkout on a bare host with only Python, and on this machine."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.fleet import disk
from tests.fleet.command_runner import ROOT, CommandRunner
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.serving import ask, checks_of_what_serves

CHECKOUT = "/root/a checkout"
PROVISION_S = 900


@pytest.fixture(scope="module")
def newcomer(fleet: Fleet) -> FleetHost:
    """A bare host that reaches what this machine reaches, with a copy of the files that git tracks."""
    [host] = fleet.boot(1, online=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    target = host.machine.root / CHECKOUT.removeprefix("/")
    target.mkdir(parents=True)
    packed = subprocess.run(
        ["tar", "--null", "--files-from=-", "-c"], cwd=ROOT, input=listed, capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(target)], input=packed, check=True)
    return host


def log_in(host: FleetHost, command: str, *, timeout_s: float = PROVISION_S) -> str:
    """Run a command with the settings of a login: those of /etc/environment."""
    return host.sh(f"set -a; . /etc/environment; set +a; {command}", timeout_s=timeout_s)


def test_one_command_makes_a_bare_host_serve(newcomer: FleetHost) -> None:
    output = log_in(newcomer, f"cd '{CHECKOUT}' && ./firstlight provision 2>&1")
    summary = json.loads(newcomer.sh(f"cat '{CHECKOUT}/logs/latest/summary.json'"))
    assert summary["verdict"] == "green", output
    [host] = summary["hosts"]
    assert (host["name"], host["state"], host["stack"]["supervisor"]) == ("localhost", "serving", "systemd")
    assert host["stack"]["interpreter"]["path"] == "/usr/bin/python3.11"
    assert newcomer.sh("systemctl is-active firstlight-vllm.service").strip() == "active"


def test_a_second_run_changes_nothing(newcomer: FleetHost) -> None:
    log_in(
        newcomer,
        f"ln -s '{CHECKOUT}/firstlight' /usr/local/bin/firstlight && cd / && firstlight provision",
        timeout_s=120,
    )
    summary = json.loads(newcomer.sh(f"cat '{CHECKOUT}/logs/latest/summary.json'"))
    assert (summary["verdict"], summary["changed"]) == ("green", 0)


def test_verify_checks_this_machine_and_may_stop_its_service_meanwhile(newcomer: FleetHost) -> None:
    unit = "systemctl show --value --property=InvocationID firstlight-vllm.service"
    before = newcomer.sh(unit).strip()
    command = f"cd '{CHECKOUT}' && ./firstlight verify --level quick --drain --json 2>/dev/null"
    document = json.loads(log_in(newcomer, command, timeout_s=400))
    assert {check["status"] for check in document["checks"]} <= {"ok", "skip"}
    assert {check["host"] for check in document["checks"]} == {"localhost"}
    drained = document["checks"][0]
    assert drained["id"] == "frame.drain"
    assert "firstlight-vllm.service was stopped, and answers correctly again after" in drained["reason"]
    assert newcomer.sh(unit).strip() not in ("", before)
    assert ask(newcomer)["with"][0] == 200
    # Started again when the last check had ended, not before.
    started = newcomer.sh('date +%s -d "$(systemctl show --value --property=ExecMainStartTimestamp firstlight-vllm)"')
    checked = datetime.fromisoformat(document["started_at"]).timestamp() + document["seconds"]
    assert int(started) >= int(checked)


def test_uninstall_removes_the_installation(newcomer: FleetHost) -> None:
    log_in(newcomer, f"cd '{CHECKOUT}' && ./firstlight uninstall", timeout_s=180)
    assert newcomer.sh("ls -d /opt/firstlight /etc/systemd/system/firstlight* 2>/dev/null; true").strip() == ""


@pytest.fixture
def here() -> Iterator[tuple[CommandRunner, str]]:
    """This machine with a prefix of the test, which is removed whatever happens."""
    if Path("/run/systemd/system").exists():
        pytest.skip("this machine has systemd and may serve already; the hosts above test this case")
    # Not below pytest's own folder: each pytest that starts makes that inaccessible to the service's account.
    with tempfile.TemporaryDirectory(prefix="firstlight-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        inventory, prefix = folder / "hosts.yml", folder / "disk/prefix"
        disk.attach(prefix.parent)
        variables = {"ansible_connection": "local", "firstlight_prefix": str(prefix), "firstlight_port": 8765}
        inventory.write_text(json.dumps({"all": {"hosts": {"localhost": variables}}}))
        run = CommandRunner(folder / "logs")
        try:
            yield run, str(inventory)
            run("uninstall", "-i", str(inventory), code=0)
            assert not prefix.exists()
        finally:
            disk.detach(prefix.parent)


@pytest.mark.long(seconds=125)
@pytest.mark.usefixtures("fleet")
def test_this_machine_without_systemd_serves_under_supervisor(here: tuple[CommandRunner, str]) -> None:
    firstlight, inventory = here
    ended = firstlight("provision", "-i", inventory, code=0)
    [host] = ended.summary["hosts"]
    assert (host["state"], host["stack"]["supervisor"]) == ("serving", "supervisor")
    assert host["attention"]["used"] == "CPU_ATTN"
    firstlight("serve", "-i", inventory, "--attention", "CPU_ATTN", code=0)
    found = checks_of_what_serves(firstlight, "-i", inventory)
    assert {check["status"] for check in found.values()} == {"ok"}, found
    ended = firstlight("stop", "-i", inventory, code=0)
    assert "stopped" in ended.out
    unit = checks_of_what_serves(firstlight, "-i", inventory)["serving.unit"]
    assert (unit["status"], "stopped by ./firstlight stop" in unit["reason"]) == ("skip", True), unit
