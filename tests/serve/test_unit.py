"""The service as text."""

import re
import shlex
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from provision.core.models.facts import NvidiaGpu
from provision.core.models.settings import Settings
from provision.phases.serve.command_line import serve_command
from provision.phases.serve.model import BUILTIN
from provision.phases.serve.unit import Service, Supervisor, render_service, supervisor_line, systemd_line
from tests.serve.conftest import SLICES, card, cards, facts, stack
from verify.serving.service_plan import ServicePlan

CPU = ("0.32.0", "cpu", "CPU_ATTN")
CUDA = ("0.26.0", "cu130", "FLASH_ATTN")
IMAGE = "e" * 64
WORDS = st.lists(
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=12), min_size=1, max_size=6
)


def service(
    supervisor: Supervisor = "systemd",
    *,
    kind: tuple[str, str, str] = CPU,
    name: str | None = None,
    prefix: str = "/opt/firstlight",
    seen: tuple[NvidiaGpu, ...] = cards(2),
    planned: dict[str, Any] | None = None,
    **settings: Any,
) -> Service:
    """Return a service of the built-in model; `planned` is what its Stack has of the plan's choice of GPUs."""
    wanted = Settings(**settings)
    host = facts(*seen) if kind == CUDA else facts()
    prefix += f"@{name}" if name else ""
    made = stack(*kind).model_copy(update=planned or {})
    return render_service(
        serve_command(made, wanted, host, prefix=prefix, model=BUILTIN),
        wanted,
        prefix=prefix,
        supervisor=supervisor,
        user="firstlight",
        home="/home/ada",
        service=name,
        image=IMAGE if wanted.runtime == "podman" else None,
    )


@pytest.mark.parametrize("kind", [CPU, CUDA], ids=["cpu", "cuda"])
def test_system_unit(kind: tuple[str, str, str], snapshot: SnapshotAssertion) -> None:
    made = service(kind=kind)
    assert made.unit == snapshot
    assert made.unit_path == "/etc/systemd/system/firstlight-vllm.service"


def test_user_unit(snapshot: SnapshotAssertion) -> None:
    made = service("systemd-user", prefix="/home/ada/.local/share/firstlight")
    assert made.unit == snapshot
    assert made.unit_path == "/home/ada/.config/systemd/user/firstlight-vllm.service"


def test_supervisor_config(snapshot: SnapshotAssertion) -> None:
    made = service("supervisor", prefix="/home/ada/.local/share/firstlight")
    assert made.config == snapshot
    assert (made.unit, made.name) == (None, "firstlight-vllm")


def test_a_service_among_others_has_a_unit_of_its_name() -> None:
    made = service(name="chat")
    assert made.name == "firstlight-vllm@chat.service"
    assert made.unit_path == "/etc/systemd/system/firstlight-vllm@chat.service"
    assert "EnvironmentFile=/opt/firstlight@chat/etc/service.env" in (made.unit or "")


def test_a_prefix_in_a_home_stays_readable() -> None:
    assert "ProtectHome=read-only" in (service(prefix="/home/ada/fl").unit or "")


def test_the_service_starts_after_the_mount_of_its_model() -> None:
    made = service(model="org/tiny", model_on_host="/home/share/tiny").unit or ""
    assert "\nRequiresMountsFor=/home/share/tiny\n" in made
    assert "ProtectHome=read-only" in made
    assert "RequiresMountsFor" not in (service().unit or "")


def test_the_digest_depends_only_on_command_and_environment_of_the_server() -> None:
    first = service()
    assert service().digest == first.digest
    changed = [
        service(port=8001),
        service(env={"VLLM_LOGGING_LEVEL": "DEBUG"}),
        service(api_key=False),
        service("systemd-user"),
    ]
    assert len({made.digest for made in (first, *changed)}) == len(changed) + 1


@pytest.mark.parametrize("kind", [CPU, CUDA], ids=["cpu", "cuda"])
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
def test_the_exposure_of_the_unit_stays_below_four(kind: tuple[str, str, str], tmp_path: Path) -> None:
    path = tmp_path / "firstlight-vllm.service"
    path.write_text(service(kind=kind).unit or "")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", path],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stderr
    assert float(found.group(1)) < 4


@given(WORDS)
def test_systemd_reads_the_same_words(words: list[str]) -> None:
    line = systemd_line(words)
    # systemd's own reading: quotes and backslashes as in a shell's double quotes, then specifiers and variables.
    assert [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)] == words


@given(WORDS)
@example(["--override-generation-config", '{"stop": " ;", "a": "# #"}', "--seed", "7"])
def test_supervisor_reads_the_same_words(words: list[str]) -> None:
    # As supervisord's own parser is made: UnhosedConfigParser in supervisor/options.py, 4.3.0.
    parser = RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    parser.read_string(f"[program:x]\ncommand={supervisor_line(words)}\n")
    assert shlex.split(parser.get("program:x", "command") % {}) == words


def test_no_secret_and_no_environment_in_the_texts() -> None:
    made = service(env={"VLLM_LOGGING_LEVEL": "DEBUG"})
    assert "DEBUG" not in (made.unit or "")
    assert "EnvironmentFile=/opt/firstlight/etc/service.env" in (made.unit or "")
    assert not any("API_KEY" in name for name in made.environment)


UUIDS = tuple(f"GPU-{index}c41e7d2-90ab-4f63-8e15-7b2d60fa3c98" for index in range(2))


def container(kind: tuple[str, str, str], name: str | None = None, **settings: Any) -> Service:
    named = tuple(card(index).model_copy(update={"uuid": uuid}) for index, uuid in enumerate(UUIDS))
    return service(kind=kind, name=name, seen=named, runtime="podman", image="/images/debian.tar", **settings)


@pytest.mark.parametrize("kind", [CPU, CUDA], ids=["cpu", "cuda"])
def test_container(kind: tuple[str, str, str], snapshot: SnapshotAssertion) -> None:
    made = container(kind)
    assert made.unit == snapshot
    assert (made.supervisor, made.name) == ("systemd", "firstlight-vllm.service")
    assert made.unit_path == "/etc/containers/systemd/firstlight-vllm.container"


def test_checks_read_the_command_and_the_account_of_a_container() -> None:
    made = container(CPU, vllm_args=["--override-generation-config", '{"a b": 1}'])
    planned = ServicePlan("systemd", made.name, made.unit, made.unit_path)
    assert planned.user == "firstlight"
    assert planned.argv[:2] == ("/opt/firstlight/current/bin/vllm", "serve")
    assert planned.argv[-1] == '{"a b": 1}'
    assert not {"User", "Exec", "Image"} & set(planned.directives())
    assert planned.directives()["KillMode"] == ["mixed"]


def test_a_container_has_the_gpus_of_its_service_alone() -> None:
    made = container(CUDA, vllm_args=[], tensor_parallel=1)
    assert re.findall("AddDevice=(.*)", made.unit or "") == [f"nvidia.com/gpu={UUIDS[0]}"]
    assert "CUDA_VISIBLE_DEVICES" not in made.environment
    assert "--gpus 0 " in (made.unit or "")
    assert "AddDevice" not in (container(CPU).unit or "")


def test_no_libraries_come_before_those_of_the_driver() -> None:
    made = container(CUDA)
    [passed] = re.findall("PodmanArgs=--unsetenv-all (.*)", made.unit or "")
    assert {word.removeprefix("--env=") for word in passed.split()} == {*made.environment, "VLLM_API_KEY", "PATH"}
    assert "LD_LIBRARY_PATH" not in made.environment


@pytest.mark.parametrize("kind", [CPU, CUDA], ids=["cpu", "cuda"])
def test_a_container_writes_no_selinux_labels_to_files_of_the_host(kind: tuple[str, str, str]) -> None:
    unit = container(kind, model_on_host="/srv/model").unit or ""
    assert "\nSecurityLabelDisable=true\n" in unit
    mounts = re.findall("Volume=(.*)", unit)
    assert "/srv/model:/srv/model:ro" in mounts
    assert {mount.split(":")[2:] == ["ro"] or len(mount.split(":")) == 2 for mount in mounts} == {True}


def test_under_wsl_the_service_may_use_the_device_of_windows_driver() -> None:
    host = facts(*cards(1)).model_copy(update={"wsl": True})
    command = serve_command(stack(*CUDA), Settings(), host, prefix="/opt/firstlight", model=BUILTIN)
    made = render_service(command, Settings(), prefix="/opt/firstlight", supervisor="systemd", user="a", home="/home/a")
    assert lines_of(made, "DeviceAllow") == ["DeviceAllow=/dev/dxg rw"]
    assert "/dev/dxg" not in (service(kind=CUDA).unit or "")


def test_systemd_holds_no_list_of_devices_that_a_reload_could_apply_again() -> None:
    unit = container(CUDA).unit or ""
    assert not re.search("DeviceAllow|DevicePolicy|PrivateDevices|CgroupsMode|--cgroup", unit)


def sliced(**settings: Any) -> Service:
    """Return a service on slice 1 of GPU 0."""
    planned = {"gpus": (0,), "gpu_slice": 1}
    return service(kind=CUDA, seen=(card(0, slices=SLICES), card(1)), planned=planned, gpus=("0:1",), **settings)


def lines_of(made: Service, *words: str) -> list[str]:
    return [line for line in (made.unit or "").splitlines() if any(word in line for word in words)]


def test_a_service_on_a_slice_gets_its_uuid_and_starts_after_slices_are_made(snapshot: SnapshotAssertion) -> None:
    made = sliced()
    variables = {name: value for name, value in made.environment.items() if name.startswith("CUDA_")}
    assert {**variables, "CUDA_CACHE_PATH": ""} == snapshot
    assert lines_of(made, "After=", "Wants=", "preflight") == snapshot


def test_a_container_has_the_slice_alone(snapshot: SnapshotAssertion) -> None:
    made = sliced(runtime="podman", image="/images/debian.tar")
    assert not {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"} & set(made.environment)
    assert lines_of(made, "After=", "AddDevice=", "preflight") == snapshot


def test_each_slice_has_a_start_cache_of_its_own_and_whole_gpus_keep_theirs() -> None:
    one, other = sliced(), sliced(runtime="podman", image="/images/debian.tar")
    keys = {made.environment["CUDA_CACHE_PATH"] for made in (one, other, service(kind=CUDA))}
    assert len(keys) == 3
