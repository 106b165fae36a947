"""The roles on real hosts: systemd, SSH, a system account, an operating system package, no internet."""

import contextlib
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

from provision.fleet.ssh import open_session
from provision.phases.probe.reading import probe
from tests.fleet.hosts import SUDO_WITH_PASSWORD, Fleet, FleetHost
from tests.fleet.inventories import hosts_of
from tests.fleet.root import bare_root
from tests.fleet.vendor import Package
from tests.install.conftest import newer_wheels
from tests.install.fleet_site import FleetSite, make_fleet_site

pytestmark = pytest.mark.long(seconds=350)

UNIT = "firstlight-vllm.service"


@pytest.fixture(scope="module")
def hosts(fleet: Fleet) -> list[FleetHost]:
    return fleet.boot(2)


def build_interpreter(folder: Path) -> Path:
    """Make an interpreter with the layout of uv's standalone builds from the one that test hosts have."""
    root, tree = bare_root(), folder / "standalone" / "python"
    (tree / "bin").mkdir(parents=True)
    (tree / "lib").mkdir()
    subprocess.run(["cp", "-a", root / "usr/bin/python3.11", tree / "bin"], check=True)
    subprocess.run(["cp", "-a", root / "usr/lib/python3.11", tree / "lib"], check=True)
    (tree / "bin" / "python3").symlink_to("python3.11")
    archive = folder / "cpython-3.11-test.tar.gz"
    subprocess.run(["tar", "-czf", archive, "-C", tree.parent, "python"], check=True)
    return archive


def played(site: FleetSite, playbook: str = "site") -> bool:
    """Run a playbook that must not fail; return whether it changed anything."""
    result = site.play(playbook)
    assert result.status == "ok", result
    return result.changed


def test_a_host_is_installed_repaired_rolled_back_and_uninstalled(hosts: list[FleetHost], tmp_path: Path) -> None:
    host = hosts[0]
    site = make_fleet_site(tmp_path, host)
    # As the controller sends it to a host without package sources.
    Package("firstlight-probe", "1.0", files={"usr/share/firstlight-probe/here": "yes\n"}).build(tmp_path)
    deb = tmp_path / "firstlight-probe_1.0_all.deb"
    site.plan(firstlight_system_packages=["firstlight-probe"], firstlight_debs=[deb.name])
    site.send(deb)
    assert played(site)
    assert host.sh(f"systemctl is-active {UNIT}; systemctl is-enabled {UNIT}").split() == ["active", "enabled"]
    assert host.sh(f"systemctl show -p User --value {UNIT}").strip() == "firstlight"
    assert host.sh("cat /opt/firstlight/installed-packages.txt") == "firstlight-probe\n"
    assert host.sh("cat /usr/share/firstlight-probe/here") == "yes\n"
    assert host.sh("stat -c '%U %a' /opt/firstlight/etc/service.env") == "root 600\n"
    pid = host.sh(f"systemctl show -p MainPID --value {UNIT}")
    assert not played(site)
    assert host.sh(f"systemctl show -p MainPID --value {UNIT}") == pid, "nothing changed, and nothing was restarted"

    first = site.variables["firstlight_environment"]["digest"]
    site.use_wheels(newer_wheels(site))
    site.send()
    assert played(site)
    second_pid = host.sh(f"systemctl show -p MainPID --value {UNIT}")
    assert second_pid != pid
    assert played(site, "rollback")
    assert host.sh("readlink -f /opt/firstlight/current") == f"/opt/firstlight/envs/{first}\n"
    assert host.sh(f"systemctl is-active {UNIT}").strip() == "active"
    assert host.sh(f"systemctl show -p MainPID --value {UNIT}") not in (pid, second_pid)

    host.reboot()
    assert host.sh(f"systemctl is-active {UNIT}").strip() == "active", "a rebooted host serves again without a run"

    assert played(site, "stop")
    assert host.sh(f"systemctl is-active {UNIT}", check=False).strip() == "inactive"
    assert played(site, "uninstall")
    assert host.sh("ls -A /opt; ls -d /var/tmp/firstlight-* 2>/dev/null; getent passwd firstlight", check=False) == ""
    assert "No files found" in host.sh(f"systemctl cat {UNIT} 2>&1", check=False)


def drift_of(host: FleetHost, folder: Path) -> list[tuple[str, str]]:
    """Return kind and path of the drift that the probe finds."""
    [node] = hosts_of(host.inventory(folder))
    with contextlib.closing(open_session(node)) as session:
        installed = probe(node, session).installed
    assert installed is not None
    return [(each.kind, each.path) for each in installed.drift]


FOLDER = f"/etc/systemd/system/{UNIT}.d"
HOOK = "/lib/python3.11/site-packages/sitecustomize.py"
DRIFT = f"""
mkdir {FOLDER} && printf '[Service]\\nEnvironment=PYTHONPATH=/tmp\\n' >{FOLDER}/a.conf
systemctl set-property --runtime {UNIT} MemoryMax=4G
systemctl daemon-reload && systemctl restart {UNIT}
systemctl disable -q {UNIT}
chmod 644 /opt/firstlight/etc/service.env
touch /opt/firstlight/current{HOOK}
"""


def test_drift_is_found_by_the_probe_and_repaired(hosts: list[FleetHost], tmp_path: Path) -> None:
    host = hosts[0]
    site = make_fleet_site(tmp_path, host)
    site.send()
    assert played(site)
    key = host.sh("cat /opt/firstlight/etc/service.env")
    assert drift_of(host, tmp_path) == []
    host.sh(DRIFT)
    runtime = f"/run/systemd/system.control/{UNIT}.d/50-MemoryMax.conf"
    environment = f"/opt/firstlight/envs/{site.variables['firstlight_environment']['digest']}"
    assert sorted(drift_of(host, tmp_path)) == [
        ("drop_in", f"{FOLDER}/a.conf"),
        ("drop_in", runtime),
        ("hook", f"{environment}{HOOK}"),
        ("permissions", "/opt/firstlight/etc/service.env"),
    ]
    assert played(site)
    assert drift_of(host, tmp_path) == []
    assert host.sh(
        f"systemctl show --property=DropInPaths,MemoryMax,UnitFileState,ActiveState {UNIT} | sort"
    ).split() == [
        "ActiveState=active",
        "DropInPaths=",
        "MemoryMax=infinity",
        "UnitFileState=enabled",
    ]
    assert "PYTHONPATH" not in host.sh(f"tr '\\0' '\\n' </proc/$(systemctl show -P MainPID {UNIT})/environ")
    assert host.sh("cat /opt/firstlight/etc/service.env") == key
    kept = host.sh("cd /opt/firstlight/etc/set-aside && find . -type f | cut -c2-").split()
    assert sorted(kept) == sorted([f"{FOLDER}/a.conf", runtime, f"{environment}{HOOK}"])

    # No file differs here: only systemd's loaded settings were changed, and then a process was stopped.
    host.sh(f"systemctl disable -q {UNIT}")
    assert [kind for kind, _ in drift_of(host, tmp_path)] == ["unit"]
    assert played(site)
    host.sh(
        f"systemctl reset-failed {UNIT}; for i in 1 2 3 4 5; do systemctl restart {UNIT}; done"
    )  # as many as systemd allows
    pid = host.sh(f"systemctl show -P MainPID {UNIT}").strip()
    host.sh(f"kill -STOP {pid}")
    assert drift_of(host, tmp_path) == [("process", f"/proc/{pid}")]
    assert played(site)
    assert drift_of(host, tmp_path) == []

    # A drop-in for more than the product's unit belongs to the administrator: it is named and stays.
    shared = "/etc/systemd/system/service.d/all.conf"
    host.sh(
        f"mkdir {Path(shared).parent} && printf '[Service]\\nOOMScoreAdjust=300\\n' >{shared} && systemctl daemon-reload"
    )
    assert drift_of(host, tmp_path) == [("unit", shared)]
    assert played(site)
    host.sh(f"test -e {shared} && rm -r {Path(shared).parent} && systemctl daemon-reload")
    assert played(site, "uninstall")


def plan_with_first_command(site: FleetSite, command: str) -> None:
    """Plan a unit that runs a shell command before each start."""
    service = site.variables["firstlight_service"]
    first = f"ExecStartPre=/bin/sh -c '{command}'\nExecStart="
    site.plan(firstlight_service={**service, "unit": service["unit"].replace("ExecStart=", first)})
    site.send()


def test_a_unit_whose_first_start_fails_is_started_again(hosts: list[FleetHost], tmp_path: Path) -> None:
    site = make_fleet_site(tmp_path, hosts[0])
    plan_with_first_command(site, "test -e /opt/firstlight/run/once || ! touch /opt/firstlight/run/once")
    assert played(site)
    assert hosts[0].sh(f"systemctl is-active {UNIT}").strip() == "active"
    assert played(site, "uninstall")


def test_a_repair_restarts_the_service_and_reports_why_that_failed(hosts: list[FleetHost], tmp_path: Path) -> None:
    host, site = hosts[0], make_fleet_site(tmp_path, hosts[0])
    plan_with_first_command(
        site, "test ! -e /opt/firstlight/run/held || { echo preflight refuses: port 8000 is held by nginx; exit 1; }"
    )
    assert played(site)
    pid = host.sh(f"systemctl show -p MainPID --value {UNIT}")
    for _ in range(6):  # one more than systemd allows in a short time
        result = site.play("repair", tags=["service"])
        assert result.status == "ok", result
    assert host.sh(f"systemctl show -p MainPID --value {UNIT}") != pid

    host.sh("touch /opt/firstlight/run/held")
    result = site.play("repair", tags=["service"])
    assert result.text == f"task `Start the unit` failed on host {site.name}: port 8000 is held by nginx"
    assert played(site, "uninstall")


def test_the_reason_why_a_unit_does_not_start_is_reported(hosts: list[FleetHost], tmp_path: Path) -> None:
    site = make_fleet_site(tmp_path, hosts[0])
    plan_with_first_command(site, "echo preflight refuses: port 8000 is held by nginx >&2; exit 1")
    result = site.play()
    assert result.status == "failed"
    assert result.text == f"task `Start the unit` failed on host {site.name}: port 8000 is held by nginx"
    assert "journalctl" in (result.hint or "")
    assert hosts[0].sh("ls /opt/firstlight/state.json", check=False) == "", (
        "a state that was not reached is not recorded"
    )
    assert played(site, "uninstall")


def test_a_host_without_any_python_and_a_user_whose_sudo_wants_a_password(
    hosts: list[FleetHost], tmp_path: Path
) -> None:
    host = hosts[1]
    host.sh("rm -f /usr/bin/python3*")
    password = SecretStr(host.admin_password)
    site = make_fleet_site(tmp_path, host, user=SUDO_WITH_PASSWORD, become_password=password)
    archive = build_interpreter(tmp_path)
    interpreter = {"origin": "managed", "path": None, "archive": archive.name, "version": "3.11"}
    site.plan(firstlight_environment={**site.variables["firstlight_environment"], "interpreter": interpreter})
    site.send(archive)
    assert played(site)
    assert not played(site)
    assert host.sh(f"systemctl is-active {UNIT}").strip() == "active"
    assert all(host.admin_password not in path.read_text() for path in site.latest.folder.rglob("*") if path.is_file())

    wrong = make_fleet_site(tmp_path / "wrong", host, user=SUDO_WITH_PASSWORD, become_password=SecretStr("wrong"))
    result = wrong.play()
    assert result.status == "failed"
    assert "Incorrect sudo password" in (result.text or "")
    assert "--ask-become-pass" in (result.hint or "")
    assert played(site, "uninstall")
