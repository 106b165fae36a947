"""devices.containers: the GPUs that containers get, as the CDI specification names them and as a container of the service's image sees them."""

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

from verify.files import small_text
from verify.host.card_health import INJECTED, skip_without_cards
from verify.host.views import Gpu, nvml
from verify.records import CheckContext, CheckResult, Observation, Status, combine
from verify.serving.service import Service

ALL = "nvidia.com/gpu=all"
LIST = ("nvidia-ctk", "cdi", "list")
RUN = ("podman", "run", "--rm", "--pull=never", "--network=none", "--security-opt=label=disable", "--entrypoint=")
QUADLETS = Path("/etc/containers/systemd")
LIMIT_S = 40.0
REMEDY = "write the specification again: nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml"


def run(context: CheckContext) -> CheckResult:
    if "missing-gpu" in context.faults:
        return evaluate([Gpu(pci=INJECTED, uuid="GPU-injected")], [ALL], serves=True)
    if skipped := skip_without_cards(context):
        return skipped
    if not shutil.which(LIST[0]):
        return CheckResult("skip", "NVIDIA's container toolkit is not installed")
    gpus, is_split = nvml.gpus() or ((), False)
    if not gpus or is_split:
        return CheckResult("skip", "NVML names no whole GPUs: see devices.driver and devices.modes")
    image = _image(context.service) if os.geteuid() == 0 else None
    named = re.findall(r"nvidia\.com/gpu=\S+", _output(LIST))
    seen = _output((*RUN, f"--device={ALL}", image, "nvidia-smi", "-L")) if image and ALL in named else None
    return evaluate(gpus, named, seen, serves=image is not None)


def _image(service: Service | None) -> str | None:
    """Return the image of the service's container; None for a service on the host itself."""
    text = small_text(QUADLETS / f"{service.name.removesuffix('.service')}.container") if service else ""
    return next((line.removeprefix("Image=") for line in text.splitlines() if line.startswith("Image=")), None)


def _output(command: Sequence[str]) -> str:
    """Return what a command prints on both streams, whether it fails or not."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout.strip()


def evaluate(gpus: Sequence[Gpu], named: Collection[str], seen: str | None = None, *, serves: bool) -> CheckResult:
    """Require all GPUs of the host by index or UUID: a failure if the service runs in a container, else a warning.

    Args:
        gpus: The GPUs in NVML's order.
        named: The devices of the CDI specification.
        seen: What `nvidia-smi -L` prints in a container; None where none was started.
        serves: Whether the service runs in a container.
    """
    if not named and not serves:
        return CheckResult(
            "skip", "no CDI specification names GPUs, and the service runs in no container", remedy=REMEDY
        )
    status: Status = "fail" if serves else "warn"
    observations = []
    names = {f"{gpu.pci}": {f"nvidia.com/gpu={index}", f"nvidia.com/gpu={gpu.uuid}"} for index, gpu in enumerate(gpus)}
    lacking = [pci for pci, either in names.items() if not either & {*named}]
    if lacking or ALL not in named:
        observations.append(Observation(status, f"the CDI specification lacks {', '.join(lacking) or ALL}", REMEDY))
    hidden = [f"{gpu.pci}" for gpu in gpus if seen is not None and f"{gpu.uuid}" not in seen]
    if hidden:
        last = (seen or "it lists none").splitlines()[-1]
        observations.append(Observation(status, f"a container does not see {', '.join(hidden)}: {last}", REMEDY))
    tried = "a container sees them" if seen is not None else "no container was started, as the service runs in none"
    healthy = f"the CDI specification names all {len(gpus)} GPUs; {tried}"
    return combine(observations, healthy, (), {"named": [*named], "seen": seen})
