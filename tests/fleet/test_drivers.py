"""Drivers on real hosts, a Debian 12 and a Debian 13: a bare host with eight cards, its packages, a real restart, and failures.

The tests of this file run in order on each host; each continues from the state that the one before left.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.command_runner import CommandRunner, play_by_hand
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.root import BOOKWORM, TRIXIE
from tests.fleet.vendor import NEW, OLD, PLACE, build_repository, give_cards, signer

KERNEL = os.uname().release


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((suite, name), id=name, marks=pytest.mark.long(f"drivers on {name}", seconds=320))
        for suite, name in ((BOOKWORM, "debian12"), (TRIXIE, "debian13"))
    ],
)
def debian(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A suite of Debian's, and what the vendor calls it."""
    named: tuple[str, str] = request.param
    return named


@pytest.fixture(scope="module")
def key(debian: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("vendor")
    with signer(folder) as by:
        build_repository(folder / "mirror", by, path=f"{debian[1]}/x86_64")
        yield by.key


@pytest.fixture(scope="module")
def host(fleet: Fleet, debian: tuple[str, str], key: Path) -> Iterator[FleetHost]:
    [booted] = fleet.boot(1, suite=debian[0])
    give_cards(booted)
    command = ["cp", "-r", str(key.parent / "mirror"), str(booted.machine.root / PLACE.lstrip("/"))]
    subprocess.run(command, check=True)
    booted.sh(f"mkdir -p /lib/modules/{KERNEL}/kernel /lib/modules/6.1.0-9-amd64/kernel")
    yield booted
    booted.remove()


@pytest.fixture(scope="module")
def firstlight(debian: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> CommandRunner:
    del debian  # each has logs of its own
    return CommandRunner(tmp_path_factory.mktemp("drivers") / "logs")


@pytest.fixture(scope="module")
def inventory(host: FleetHost, key: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("inventory")
    settings = {"firstlight_driver_repository": f"file://{PLACE}", "firstlight_driver_key": str(key)}
    return str(host.inventory(folder, **settings, firstlight_cuda_toolkit="13.0"))


def packages(host: FleetHost) -> dict[str, tuple[str, str]]:
    """Return version and state (`hi`: to be held, installed) of every package of the driver."""
    form = "${Package} ${Version} ${db:Status-Abbrev}\\n"
    lines = host.sh(f"dpkg-query -W -f '{form}'").splitlines()
    named = [line.split() for line in lines if "nvidia" in line or line.startswith("libcuda1 ")]
    return {row[0]: (row[1].partition("-")[0], row[2]) for row in named if row[-1][1] == "i"}


def test_without_consent_to_restart_a_bare_host_gets_its_driver_and_the_next_command(
    firstlight: CommandRunner, host: FleetHost, inventory: str
) -> None:
    ended = firstlight("provision", "-i", inventory, code=1)
    result = ended.host(host.name)["phases"]["install"]
    assert f"driver {NEW} is installed and runs after a restart" in result["text"]
    assert f"./firstlight provision -i {inventory} --reboot" in result["hint"]
    assert not list((ended.run / "stage").glob("*"))
    there = packages(host)
    assert {"nvidia-open", "nvidia-kernel-open-dkms", "nvidia-driver-cuda", "nvidia-persistenced"} <= there.keys()
    # A newer branch is available and would satisfy every dependency: pin and hold prevent it.
    assert set(there.values()) == {(NEW, "hi")}
    upgrade = [line.split()[1] for line in host.sh("apt-get -s dist-upgrade").splitlines() if line.startswith("Inst ")]
    assert not [name for name in upgrade if "nvidia" in name or "cuda" in name]
    assert host.sh(f"ls -d /usr/src/linux-headers-{KERNEL}")
    assert "blacklist nouveau" in host.sh("cat /etc/modprobe.d/firstlight-nvidia.conf")
    # A person may restart the host: the next run finds nothing to do.
    assert "--no-persistence-mode" not in host.sh("systemctl show --property=ExecStart nvidia-persistenced")


def test_with_consent_the_host_is_restarted_and_the_probe_finds_the_planned_driver(
    firstlight: CommandRunner, host: FleetHost, inventory: str
) -> None:
    before = host.sh("cat /proc/sys/kernel/random/boot_id")
    ended = firstlight("drivers", "-i", inventory, "--reboot", code=0)
    assert host.sh("cat /proc/sys/kernel/random/boot_id") != before
    facts = json.loads((ended.run / f"facts/{host.name}.json").read_text())["nvidia"]
    assert (facts["driver_version"], facts["fabric_manager_version"]) == (NEW, NEW)
    assert (facts["fabric_manager_state"], facts["fabric_state"]) == ("active", "Completed (Success)")
    assert len(facts["gpus"]) == 8
    plan = json.loads((ended.run / "plan.json").read_text())["classes"][0]["stack"]
    assert (plan["driver"]["action"], plan["driver"]["version"]) == ("keep", NEW)
    assert ended.summary["changed"] == 1
    assert packages(host)["nvidia-fabricmanager"] == (NEW, "hi")
    assert host.sh("systemctl is-active nvidia-persistenced").strip() == "active"
    started = host.sh("systemctl show --property=ExecStart nvidia-persistenced")
    assert "--user nvidia-persistenced --verbose" in started
    assert "--no-persistence-mode" not in started
    assert "release 13.0" in host.sh("/usr/local/cuda-13.0/bin/nvcc --version")


@pytest.mark.usefixtures("inventory")
def test_the_playbook_run_by_hand_changes_nothing(firstlight: CommandRunner) -> None:
    runs = sorted(path for path in firstlight.logs.glob("*/install/hosts.yml") if not path.parents[1].is_symlink())
    for options in ((), ("--check",)):
        done = play_by_hand("drivers", runs[-1], *options)
        assert done.returncode == 0, done.stdout + done.stderr
        assert " changed=0 " in done.stdout


def test_a_second_run_uses_no_playbook(firstlight: CommandRunner, host: FleetHost, inventory: str) -> None:
    ended = firstlight("drivers", "-i", inventory, "--reboot", code=0)
    assert (ended.host(host.name)["state"], ended.summary["changed"]) == ("unchanged", 0)
    assert not (ended.run / "install/tasks.jsonl").exists()


def test_a_fabric_manager_of_another_version_is_replaced(
    firstlight: CommandRunner, host: FleetHost, inventory: str
) -> None:
    host.sh(
        "rm /etc/apt/preferences.d/firstlight-nvidia-cuda /run/fabric-complete; systemctl stop nvidia-fabricmanager; "
        f"apt-get -qq -y --allow-downgrades --allow-change-held-packages install nvidia-fabricmanager={OLD}-1",
        timeout_s=180,
    )
    started = "systemctl start nvidia-fabricmanager; sleep 1; systemctl is-active nvidia-fabricmanager"
    assert host.sh(started, check=False) != "active\n"
    ended = firstlight("drivers", "-i", inventory, code=0)
    assert packages(host)["nvidia-fabricmanager"] == (NEW, "hi")
    facts = json.loads((ended.run / f"facts/{host.name}.json").read_text())["nvidia"]
    assert (facts["fabric_manager_version"], facts["fabric_state"]) == (NEW, "Completed (Success)")


def test_a_branch_is_changed_whatever_packages_are_installed(
    firstlight: CommandRunner, host: FleetHost, inventory: str, debian: tuple[str, str]
) -> None:
    """An older branch, held; an entry of the host for the same repository, whose key is in another file; a package half configured; apt busy."""
    before = " ".join(f"{name}={OLD}-1" for name in packages(host))
    host.sh(
        "rm /etc/apt/preferences.d/firstlight-nvidia-cuda; apt-mark unhold $(apt-mark showhold) >/dev/null; "
        f"apt-get -qq -y --allow-downgrades install nvlsm libnvidia-compute-570={OLD}-1 libcuda1={OLD}-1 {before} 2>&1; "
        "apt-mark hold nvidia-open libnvidia-compute-570 nvidia-kernel-open-dkms >/dev/null",
        timeout_s=180,
    )
    other = f"/etc/apt/sources.list.d/cuda-{debian[1]}-x86_64.list"
    source = f"deb [signed-by=/usr/share/keyrings/other.asc] file://{PLACE}/{debian[1]}/x86_64/ /"
    host.sh(
        f"echo '{source}' >{other}; cp /usr/share/keyrings/firstlight-nvidia-cuda.asc /usr/share/keyrings/other.asc"
    )
    host.sh("sed -i '/^Package: nvlsm$/,/^$/{s/ok installed/ok half-configured/}' /var/lib/dpkg/status")
    host.reboot()
    lock = "import fcntl, time; file = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(file, fcntl.LOCK_EX); time.sleep(12)"
    host.sh(f'nohup python3 -c "{lock}" >/dev/null 2>&1 &')
    ended = firstlight("drivers", "-i", inventory, "--driver", "upgrade", "--vllm", "==0.32.0", "--reboot", code=0)
    there = packages(host)
    assert "libnvidia-compute-570" not in there
    assert set(there.values()) == {(NEW, "hi")}
    assert host.sh("dpkg --audit") == ""
    assert host.sh(f"cat {other}").strip() == source
    assert "Conflicting" not in host.sh("apt-get update 2>&1", check=False)
    assert json.loads((ended.run / f"facts/{host.name}.json").read_text())["nvidia"]["driver_version"] == NEW


def test_drivers_are_removed_on_consent_and_not_while_a_gpu_is_in_use(
    firstlight: CommandRunner, host: FleetHost, inventory: str
) -> None:
    there = packages(host)
    ended = firstlight("uninstall", "-i", inventory, code=0)
    [remains] = [line for line in ended.out.splitlines() if "remains: drivers" in line]
    assert f"(remove them with: ./firstlight uninstall -i {inventory} --drivers)" in remains
    assert there.keys() <= set(remains.split())
    host.sh("touch /dev/nvidia0; systemd-run --quiet --unit=job sh -c 'exec sleep infinity </dev/nvidia0'")
    ended = firstlight("uninstall", "-i", inventory, "--drivers", code=1)
    assert "drivers are not removed, as a GPU is in use: process" in ended.host(host.name)["phases"]["install"]["text"]
    assert packages(host) == there
    host.sh("systemctl stop job; rm /dev/nvidia0")
    ended = firstlight("uninstall", "-i", inventory, "--drivers")
    assert (ended.code, ended.summary["changed"]) == (0, 1), ended.output()
    assert packages(host) == {}
    assert host.sh("apt-mark showhold") == ""
    assert host.sh("find /etc /usr/share/keyrings /var/lib -name '*firstlight*'") == ""
    ended = firstlight.changes_nothing("uninstall", "-i", inventory, "--drivers")
    assert "nothing is installed" in ended.out
