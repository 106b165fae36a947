"""A service in a container of podman, on a booted Debian 13: the whole walk, from the image that the guide has made to an uninstallation.

The tests of this file run in order on one host; each continues from the state that the one before left.
"""

import hashlib
import io
import json
import re
import shlex
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.fleet import disk
from tests.fleet.bundles import OfflineController
from tests.fleet.command_runner import ROOT, CommandRunner
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.layers import FOR_A_USER
from tests.fleet.root import TRIXIE
from tests.fleet.serving import PREFIX, ask, checks_of_what_serves, post, wait_until_healthy
from tests.serve.test_unit import CPU, CUDA, IMAGE, UUIDS, container, sliced
from verify.serving.service_plan import ServicePlan

# On Debian 13 the wheels are those of CUDA (test_default_index.py).
pytestmark = [pytest.mark.long(seconds=880), pytest.mark.usefixtures("wheels_for_file")]
GUIDE = ROOT / "docs/guides/containers.md"
UNIT = "firstlight-vllm.service"
QUADLET, SYSTEM_UNIT = "/etc/containers/systemd/firstlight-vllm.container", f"/etc/systemd/system/{UNIT}"
FILES = "tar -C / --one-file-system --exclude=./var --exclude=./tmp --exclude=./root -c . >/root/root.tar"
SERVER = "podman inspect -f '{{.State.Pid}}' firstlight-vllm 2>/dev/null"
ENGINE = "VLLM::EngineCore|spawn_main"
"""A process by its title, or by its command line where it has none: setproctitle finds no place for one where the first variable of the
environment has moved, and podman orders variables by chance."""
STOP = f"kill -STOP $(pgrep -P $({SERVER}) -f '{ENGINE}')"


@pytest.fixture(scope="module")
def host(fleet: Fleet) -> FleetHost:
    [host] = fleet.boot(1, packages=(*FOR_A_USER, "podman", "crun"), suite=TRIXIE, containers=True)
    return host


@pytest.fixture(scope="module")
def image(host: FleetHost, folder: Path) -> Path:
    """The image of the guide, made by its commands of the files of the host's own system; the host itself keeps none.

    No registry is at hand: what is built begins with what was imported.
    """
    found = re.findall(r"(podman (build|save|import) [^`\n]*)", GUIDE.read_text(encoding="utf-8"))
    commands = {verb: command for command, verb in found}
    (host.machine.root / "root/Containerfile").write_text("FROM localhost/system:1\n")
    made = "; ".join(commands[verb] for verb in ("import", "build", "save"))
    host.sh(f"{FILES}; cd /root; {made}; podman rmi --all --force >/dev/null; rm root.tar Containerfile", timeout_s=600)
    words = shlex.split(commands["save"])
    name = words[words.index("-o") + 1]
    return Path(shutil.move(host.machine.root / "root" / name, folder / name))


def inventory(host: FleetHost, image: Path, **variables: Any) -> str:
    """An inventory whose host serves in a container, as the guide has it."""
    settings = {"firstlight_runtime": "podman", "firstlight_image": image.name, **variables}
    path = image.parent / "-".join(["inventory", *map(str, variables.values())])
    path.mkdir(exist_ok=True)
    (path / image.name).unlink(missing_ok=True)
    (path / image.name).hardlink_to(image)
    return str(host.inventory(path, **settings))


def generated(host: FleetHost, file: str, unit: str) -> str:
    """Return what podman makes of a file alone. Raises RuntimeError if it refuses it."""
    files = host.machine.root / "root/units"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    (files / file).write_text(unit)
    return host.sh("QUADLET_UNIT_DIRS=/root/units /usr/libexec/podman/quadlet -dryrun 2>&1")


@pytest.mark.parametrize("name", [None, "chat"])
@pytest.mark.parametrize("kind", [CPU, CUDA], ids=["cpu", "cuda"])
def test_podman_makes_units_of_what_is_planned(host: FleetHost, kind: tuple[str, str, str], name: str | None) -> None:
    made = container(kind, name, vllm_args=["--override-generation-config", '{"a b": 1}'], model_on_host="/srv/model")
    assert made.unit is not None
    assert made.unit_path is not None
    file = Path(made.unit_path).name
    said = generated(host, file, made.unit)
    assert f"---{made.name}---" in said
    line = re.search(r"^ExecStart=(.*)$", said, re.MULTILINE)
    assert line, said
    words = shlex.split(line[1])
    server = tuple(word.replace("%%", "%").replace("$$", "$") for word in words[words.index(IMAGE) + 1 :])
    assert server == ServicePlan("systemd", made.name, made.unit).argv
    given = {word.removeprefix("--env=") for word in words if word.startswith("--env=")}
    assert given == {*made.environment, "VLLM_API_KEY", "PATH"}
    gpus = [f"nvidia.com/gpu={uuid}" for uuid in UUIDS] if kind == CUDA else []
    assert [word for word in words if word.startswith("nvidia.com/")] == gpus
    # The container's control group is below the unit's, which is podman's alone: a reload changes no access to devices there.
    assert "--cgroups=split" in words
    assert "\nDelegate=yes\n" in said
    assert "Device" not in "".join(line for line in said.splitlines() if not line.startswith("AddDevice="))
    assert "/srv/model:/srv/model:ro" in words
    with pytest.raises(RuntimeError, match="Readonly"):
        generated(host, file, made.unit.replace("ReadOnly=", "Readonly="))


def test_podman_gives_a_container_one_slice_by_a_stand_in_for_nvidias_specification(host: FleetHost) -> None:
    made = sliced(runtime="podman", image="/images/debian.tar")
    [device] = re.findall(r"--device (\S+)", generated(host, "firstlight-vllm.container", made.unit or ""))
    edits = [{"name": f"0:{index}", "containerEdits": {"env": [f"SLICE={index}"]}} for index in (0, 1)]
    specification = host.machine.root / "etc/cdi/nvidia.yaml"
    specification.parent.mkdir(exist_ok=True)
    specification.write_text(json.dumps({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": edits}))
    ran = f"podman run --rm --network=host --device {shlex.quote(device)} --rootfs /:O printenv SLICE"
    assert host.sh(ran).split() == ["1"]
    specification.unlink()


CDI = {
    "cdiVersion": "0.5.0",
    "kind": "nvidia.com/gpu",
    "devices": [
        {"name": name, "containerEdits": {"deviceNodes": [{"path": f"/dev/nvidia{index}", "hostPath": "/dev/net/tun"}]}}
        for index, name in enumerate((*UUIDS, "GPU-of-another"))
    ],
}
"""What NVIDIA's toolkit says of GPUs, with a device of the host in the place of each."""
OPENS = "podman exec systemd-trial sh -c ': <>/dev/nvidia0 && : <>/dev/nvidia1 && ls /dev | grep -c nvidia'"


def test_a_container_keeps_its_gpus_when_systemd_reloads(host: FleetHost, image: Path) -> None:
    """With a stand-in for GPUs: systemd takes devices from containers whose control groups are its own (NVIDIA/nvidia-docker#1730)."""
    kept = re.findall(r"^(?:AddDevice|Network|ReadOnly|Tmpfs|DropCapability|NoNewPrivileges|Pull|Ulimit)=.*$", container(CUDA).unit or "", re.MULTILINE)  # fmt: skip
    shutil.copy(image, host.machine.root / "root")
    host.sh(f"podman load --quiet --input /root/{image.name}; rm /root/{image.name}", timeout_s=180)
    number = host.sh("podman images -q --no-trunc").strip().removeprefix("sha256:")
    unit = ["[Container]", f"Image={number}", "Exec=sleep 600", *kept, ""]
    folder = host.machine.root / "etc/cdi"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nvidia.json").write_text(json.dumps(CDI))
    quadlet = host.machine.root / "etc/containers/systemd/trial.container"
    quadlet.parent.mkdir(parents=True, exist_ok=True)
    quadlet.write_text("\n".join(unit))
    try:
        started = "systemctl daemon-reload; systemctl start trial.service || { journalctl -n 20 -u trial.service >&2; exit 1; }"
        host.sh(started, timeout_s=120)
        assert host.sh(OPENS).strip() == "2"
        host.sh("for _ in 1 2 3; do systemctl daemon-reload; done")
        assert host.sh(OPENS).strip() == "2"
        assert host.sh("systemctl show --value -p DeviceAllow trial.service").strip() == ""
    finally:
        quadlet.unlink()
        host.sh(
            "systemctl stop trial.service; systemctl daemon-reload; rm -r /etc/cdi; podman rmi --all --force",
            timeout_s=120,
        )


def test_a_service_serves_in_a_container(firstlight: CommandRunner, host: FleetHost, image: Path) -> None:
    path = inventory(host, image)
    ended = firstlight("provision", "-i", path, code=0)
    [one] = ended.summary["hosts"]
    assert (one["state"], one["attention"]["used"]) == ("serving", "CPU_ATTN")
    assert {check["status"] for check in one["checks"]} <= {"ok", "skip"}, one["checks"]
    [inside] = [check["reason"] for check in one["checks"] if check["id"] == "frame.container"]
    assert re.search(r"in the service's container, \d\d checks passed, of libraries, kernels, attention", inside)
    assert ask(host)["with"][1]["data"][0]["id"] == "builtin-1"
    server = host.sh(SERVER).strip()
    inside, outside = (host.sh(f"readlink /proc/{pid}/ns/mnt") for pid in (server, 1))
    assert inside != outside
    assert host.sh(f"touch /proc/{server}/root/usr/x 2>&1", check=False).strip().endswith("Read-only file system")
    status = host.sh(f"cat /proc/{server}/status")
    assert re.findall(r"(?:CapBnd|NoNewPrivs):\t(\w+)", status) == ["0" * 16, "1"]
    found = checks_of_what_serves(firstlight, "-i", path)
    assert {check["status"] for check in found.values()} == {"ok"}, found
    # podman makes the unit again, with its options in another order.
    host.sh("for _ in 1 2 3; do systemctl daemon-reload; done")
    firstlight.changes_nothing("provision", "-i", path)


def test_it_serves_again_when_its_server_is_killed_or_its_engine_hangs(
    firstlight: CommandRunner, host: FleetHost, image: Path
) -> None:
    before = host.sh(SERVER).strip()
    host.sh(f"kill -9 {before}")
    host.sh(f"for _ in $(seq 90); do {SERVER} | grep -qvx {before} && exit 0; sleep 1; done; exit 1", timeout_s=120)
    wait_until_healthy(host)
    host.sh(f"for _ in $(seq 30); do {STOP} && exit 0; sleep 1; done; ps -eo pid,ppid,stat,args >&2; exit 1")
    record = f"{PREFIX}/health-agent/watchdog.json"
    host.sh(f"for _ in $(seq 60); do test -e {record} && exit 0; sleep 1; done; exit 1", timeout_s=90)
    [event] = json.loads(host.sh(f"cat {record}"))["events"]
    assert event["action"] == "restarted"
    assert re.search(ENGINE, host.sh(f"cat {event['dump']}"))
    wait_until_healthy(host)
    firstlight.changes_nothing("provision", "-i", inventory(host, image))


def test_it_serves_again_after_a_reboot(host: FleetHost) -> None:
    host.reboot()
    wait_until_healthy(host)
    # The shortest first prompt: a CPU with AMX ends an engine that has not asked for its registers.
    model = ask(host)["with"][1]["data"][0]["id"]
    assert post(host, "/v1/completions", model=model, prompt="a", max_tokens=1)["choices"]
    assert host.sh(f"systemctl is-enabled {UNIT}").strip() == "generated"


def second(image: Path) -> Path:
    """The same image under another ID: its configuration has one more label."""
    changed, path = {}, image.with_name("second.tar")
    with tarfile.open(image) as old, tarfile.open(path, "w") as new:
        for member in old:
            reading = old.extractfile(member)
            if reading is None or member.size > 1 << 16:
                new.addfile(member, reading)
            else:
                changed[member.name.removeprefix("./")] = json.loads(reading.read())
        [entry] = changed["index.json"]["manifests"]
        manifest = changed[f"blobs/{entry['digest'].replace(':', '/')}"]
        config = changed[f"blobs/{manifest['config']['digest'].replace(':', '/')}"]
        config.setdefault("config", {})["Labels"] = {"release": "second"}
        for named, content in ((manifest["config"], config), (entry, manifest)):
            text = json.dumps(content).encode()
            named["digest"], named["size"] = f"sha256:{hashlib.sha256(text).hexdigest()}", len(text)
            add(new, f"blobs/{named['digest'].replace(':', '/')}", text)
        for name in ("index.json", "oci-layout"):
            add(new, name, json.dumps(changed[name]).encode())
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def test_another_image_and_a_rollback(firstlight: CommandRunner, host: FleetHost, image: Path) -> None:
    runs = "podman inspect -f '{{.Image}}' firstlight-vllm"
    former = host.sh(runs)
    firstlight("provision", "-i", inventory(host, second(image), firstlight_port=8001), code=0)
    assert ask(host, port=8001)["with"][0] == 200
    assert host.sh(runs) != former
    firstlight("rollback", "-i", inventory(host, image), code=0)
    assert ask(host)["with"][0] == 200
    assert host.sh(runs) == former


def test_what_podman_lost_is_loaded_again(firstlight: CommandRunner, host: FleetHost, image: Path) -> None:
    host.sh("podman rmi --all --force", timeout_s=180)
    ended = firstlight("provision", "-i", inventory(host, image), code=0)
    changes = json.loads((ended.run / "planned_changes.json").read_text())[host.name]
    assert "image" in [change["part"] for change in changes]
    assert ask(host)["with"][0] == 200


def test_a_service_leaves_its_container_and_returns(firstlight: CommandRunner, host: FleetHost, image: Path) -> None:
    firstlight("provision", "-i", str(host.inventory(image.parent / "venv")), code=0)
    assert host.sh(f"podman ps -aq; test ! -e {QUADLET} && systemctl is-enabled {UNIT}").split() == ["enabled"]
    assert ask(host)["with"][0] == 200
    firstlight("rollback", "-i", str(host.inventory(image.parent / "venv")), code=0)
    returned = host.sh(f"test ! -e {SYSTEM_UNIT} && systemctl is-enabled {UNIT}; podman ps -q | wc -l")
    assert returned.split() == ["generated", "1"]
    assert ask(host)["with"][0] == 200


def test_an_uninstallation_leaves_nothing(firstlight: CommandRunner, host: FleetHost, image: Path) -> None:
    drop_ins = f"/etc/systemd/system/{UNIT}.d"
    host.sh(f"mkdir -p {drop_ins} && echo '[Service]' >{drop_ins}/own.conf && systemctl daemon-reload")
    firstlight("uninstall", "-i", inventory(host, image), code=0)
    assert host.sh("podman ps -aq; podman images -q").strip() == ""
    assert host.sh(f"ls -d {PREFIX}* /var/tmp/firstlight-* 2>/dev/null; getent passwd firstlight; true") == ""
    assert host.sh("ls /etc/containers/systemd /etc/systemd/system | grep firstlight || true") == ""
    assert host.sh(f"systemctl list-units --all --no-legend {UNIT}").strip() == ""


@pytest.mark.long("a container from a bundle", seconds=450)
def test_a_bundle_has_the_image_for_a_controller_and_a_host_without_a_network(
    fleet: Fleet, host: FleetHost, image: Path, wheels_for_file: Path
) -> None:
    site = fleet.disk / "offline"
    site.mkdir()
    path = inventory(host, image)
    controller, _ = OfflineController.made(site, path)
    # The last test of the image: the bundle has it and the wheels, and each copy has gigabytes.
    for copy in (image, Path(path).with_name(image.name)):
        copy.unlink()
    shutil.rmtree(wheels_for_file)
    wheels_for_file.mkdir()

    def keep_one_copy() -> None:
        disk.link_equal(site, host.machine.folder / "upper/var/tmp")
        if (controller.folder / "cache/files").exists():
            controller.bundle.unlink(missing_ok=True)  # it is read once, in a stream that has begun

    end = disk.regularly(keep_one_copy)
    settings = {"firstlight_runtime": "podman", "firstlight_image": image.name}
    try:
        found = controller.provision(str(host.inventory(site / "inventory", **settings)))
    finally:
        end()
    assert not (site / "inventory" / image.name).exists()
    assert found["hosts"][0]["state"] == "serving"
    assert host.sh("podman ps -q | wc -l").strip() == "1"
    assert ask(host)["with"][0] == 200
    shutil.rmtree(site)
