"""The GPUs that containers get. No GPU is here: NVML's answer is made up, and scripts stand in for nvidia-ctk and podman."""

from pathlib import Path

import pytest

from tests.verify.localhost import program
from verify.checks.devices import driver
from verify.checks.devices.driver import ALL_GPUS as ALL
from verify.checks.devices.driver import evaluate_containers as evaluate
from verify.host.views import Gpu, nvml, pci
from verify.records import CheckContext
from verify.serving.service import Service

GPUS = (Gpu(pci="0000:1b:00.0", uuid="GPU-4f1c"), Gpu(pci="0000:43:00.0", uuid="GPU-9ab2"))
BY_INDEX = (ALL, "nvidia.com/gpu=0", "nvidia.com/gpu=1")
BY_UUID = (ALL, "nvidia.com/gpu=GPU-9ab2", "nvidia.com/gpu=GPU-4f1c")
SEEN = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-4f1c)\nGPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-9ab2)"
MADE = driver.SPECIFY_AGAIN


@pytest.mark.parametrize(
    ("named", "seen", "serves", "status", "reason"),
    [
        (BY_INDEX, SEEN, True, "ok", "the CDI specification names all 2 GPUs; a container sees them"),
        (BY_UUID, None, False, "ok", "the CDI specification names all 2 GPUs; no container was started, as"),
        (BY_INDEX[:2], None, False, "warn", "the CDI specification lacks 0000:43:00.0"),
        (BY_INDEX[1:], None, False, "warn", "the CDI specification lacks nvidia.com/gpu=all"),
        (BY_INDEX[:2], SEEN, True, "fail", "the CDI specification lacks 0000:43:00.0"),
        ((), None, True, "fail", "the CDI specification lacks 0000:1b:00.0, 0000:43:00.0"),
        ((), None, False, "skip", "no CDI specification names GPUs, and the service runs in no container"),
        (BY_UUID, SEEN.splitlines()[0], True, "fail", "a container does not see 0000:43:00.0: GPU 0: NVIDIA H100"),
        (BY_UUID, "", True, "fail", "a container does not see 0000:1b:00.0, 0000:43:00.0: it lists none"),
    ],
)
def test_each_gpu_must_be_named_and_seen(
    named: tuple[str, ...], seen: str | None, serves: bool, status: str, reason: str
) -> None:
    outcome = evaluate(GPUS, named, seen, serves=serves)
    assert (outcome.status, outcome.reason[: len(reason)]) == (status, reason)
    assert outcome.remedy == (None if status == "ok" else MADE)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs, on a host with two GPUs whose service runs in a container of image `0a1b`."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(pci, "present", lambda _, **__: True)
    monkeypatch.setattr(nvml, "gpus", lambda: (GPUS, False))
    monkeypatch.setattr(driver, "QUADLETS", tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    (tmp_path / "firstlight-vllm.container").write_text("[Container]\nImage=0a1b\n")
    program(
        tmp_path / "nvidia-ctk",
        f'[ "$*" = "cdi list" ] && printf "%s\\n" "INFO Found 3 CDI devices" {" ".join(BY_INDEX)}',
    )
    asked = f"{' '.join(driver.RUN_CONTAINER[1:])} --device={ALL} 0a1b nvidia-smi -L"
    program(tmp_path / "podman", f"[ \"$*\" = '{asked}' ] && echo '{SEEN}'")
    return tmp_path


SERVICE = Service(Path("/opt/firstlight"), {"unit": "firstlight-vllm.service"}, None)


def test_the_image_of_the_service_is_started_with_all_gpus(host: Path) -> None:
    outcome = driver.containers(CheckContext(service=SERVICE))
    assert (outcome.status, outcome.reason) == ("ok", "the CDI specification names all 2 GPUs; a container sees them")
    assert outcome.evidence == {"named": [*BY_INDEX], "seen": SEEN}


def test_a_container_that_does_not_start_sees_nothing_and_its_error_is_named(host: Path) -> None:
    program(host / "podman", "echo 'Error: setting up CDI devices: unresolvable CDI devices' >&2; exit 126")
    outcome = driver.containers(CheckContext(service=SERVICE))
    assert outcome.status == "fail"
    assert outcome.reason.endswith("0000:43:00.0: Error: setting up CDI devices: unresolvable CDI devices")


def test_without_a_container_of_the_service_none_is_started(host: Path) -> None:
    program(host / "podman", "echo called >&2; exit 1")
    assert driver.containers(CheckContext()).reason.endswith("no container was started, as the service runs in none")


@pytest.mark.parametrize(
    ("gpus", "reason"),
    [(None, "NVML names no whole GPUs"), ((GPUS, True), "NVML names no whole GPUs")],
    ids=["no NVML", "split by MIG"],
)
def test_what_cannot_be_compared_is_skipped(
    gpus: object, reason: str, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "gpus", lambda: gpus)
    outcome = driver.containers(CheckContext())
    assert (outcome.status, outcome.reason.startswith(reason)) == ("skip", True)


def test_without_the_toolkit_the_check_is_skipped(host: Path) -> None:
    (host / "nvidia-ctk").unlink()
    outcome = driver.containers(CheckContext())
    assert (outcome.status, outcome.reason) == ("skip", "NVIDIA's container toolkit is not installed")
