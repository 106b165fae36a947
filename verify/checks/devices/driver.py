"""devices.driver, gpus, torch and containers: the driver's releases, and agreement of driver, libraries, torch and containers on the GPUs."""

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from verify.checks.libraries.builds import mapped_libraries
from verify.files import small_text
from verify.host.card_health import INJECTED, skip_without_cards
from verify.host.views import Gpu, amd_smi, kernel_driver, nvml, pci, torch_view
from verify.host.views.kernel_driver import FOLDER, release
from verify.records import CheckContext, CheckResult, Figure, Observation, Status, combine
from verify.serving.service import Service
from verify.tables import table

LIBRARIES = ("libcuda", "libnvidia-ml")


def driver(context: CheckContext) -> CheckResult:
    if "stale-library" in context.faults:
        return evaluate_driver("580.82.07", {"libcuda": Path("/usr/lib/libcuda.so.570.133.20")}, {})
    if skipped := skip_without_cards(context):
        return skipped
    missing = {name: why for name in LIBRARIES if (why := _refusal(name))}
    mapped = mapped_libraries(Path("/proc/self/maps").read_text())
    found = {name: path for path in mapped for name in LIBRARIES if path.name.startswith(f"{name}.so")}
    # Sandboxes hide the module's files; NVML would not start without a module.
    return evaluate_driver(release(FOLDER) or nvml.release(), found, missing)


def _refusal(name: str) -> str | None:
    """Load a library as torch does, which touches no device; return the error, None if it loads."""
    try:
        ctypes.CDLL(f"{name}.so.1")
    except OSError as error:
        return str(error)
    return None


def evaluate_driver(kernel: str | None, libraries: Mapping[str, Path], missing: Mapping[str, str]) -> CheckResult:
    """Compare the release of the loaded module (None: none is loaded) with those of the libraries."""
    stand_in = table("libraries")["library"]["libcuda"]["shadow"]
    # The release of `libcuda.so.580.82.07` is 580.82.07.
    named = {name: re.search(r"\.so\.(\d+(?:\.\d+)+)$", path.name) for name, path in libraries.items()}
    releases = {name: found[1] for name, found in named.items() if found and stand_in not in str(libraries[name])}
    evidence = {"kernel module": kernel, "libraries": {name: str(path) for name, path in libraries.items()}, **missing}
    if kernel is None:
        remedy = "modprobe nvidia; dmesg shows why it fails"
        return CheckResult("fail", "no NVIDIA kernel module is loaded", (), evidence, remedy)
    if missing:
        details = "; ".join(f"{name}: {why}" for name, why in missing.items())
        text = f"the driver's libraries do not load: {details}"
        return CheckResult("fail", text, (), evidence, "install the complete driver")
    other = [f"{libraries[name]} is of {own}" for name, own in releases.items() if own != kernel]
    if other:
        text = f"the loaded kernel module is {kernel}, and {'; '.join(other)}"
        remedy = "reboot to load the module of the installed release; restart a container"
        return CheckResult("fail", text, (), evidence, remedy)
    details = ", ".join(releases) or "no library names its release"
    return CheckResult("ok", f"kernel module {kernel}, and of the same release: {details}", (), evidence)


MASKS = ("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""The first, as a container, hides GPUs from NVML too; the others hide them from torch alone."""

Views = Mapping[str, "tuple[Gpu, ...] | None"]
"""GPUs by layer, in the order bus, driver, NVML, torch; None for a layer that is absent."""


def gpus(context: CheckContext) -> CheckResult:
    rocm = torch_view.load().version.hip is not None
    amd = rocm or (not torch_view.built_for_gpus() and bool(pci.gpus("amd", integrated=False)))
    on_bus = pci.gpus("amd" if amd else "nvidia", integrated=rocm)
    if "missing-gpu" in context.faults:
        on_bus += (Gpu(pci="0000:ff:00.0"),)
    views: dict[str, tuple[Gpu, ...] | None] = {"PCI": on_bus}
    if amd:
        between, split = amd_views()
    else:
        answer = nvml.gpus()
        between = {"kernel driver": kernel_driver.gpus(), "NVML": answer and answer[0]}
        split = bool(answer and answer[1])
    views |= between
    views["torch"] = torch_view.gpus() if torch_view.built_for_gpus() else None
    masks = {name: os.environ[name] for name in MASKS if name in os.environ}
    masks |= {"container": kind} if (kind := context.expect.get("container")) else {}
    outcome = evaluate_gpus(views, variant=context.variant, masks=masks, split=split)
    if outcome.status != "fail":
        outcome = fewer(on_bus or views["torch"] or (), context.expect.get("gpus")) or outcome
    seen = {layer: None if view is None else [asdict(gpu) for gpu in view] for layer, view in views.items()}
    return replace(outcome, evidence={"seen": seen, "masks": masks})


def amd_views() -> tuple[dict[str, tuple[Gpu, ...] | None], bool]:
    """Return what amdgpu and amd-smi, which torch does not need, report, and whether a card is partitioned. Raises AmdSmiError."""
    driver, tool = kernel_driver.amd_gpus(), amd_smi.GPUS.ask()
    views = {"kernel driver": driver} | ({} if tool is None else {"amd-smi": tool})
    return views, len({gpu.pci for gpu in driver or ()}) < len(driver or ())


def evaluate_gpus(views: Views, *, variant: str | None, masks: Mapping[str, str], split: bool) -> CheckResult:
    """Compare the layers. `variant` is the planned torch build, None without a plan."""
    figures = tuple(Figure(f"GPUs: {layer}", len(view), "count") for layer, view in views.items() if view is not None)
    counts = ", ".join(f"{layer} {'absent' if view is None else len(view)}" for layer, view in views.items())
    on_bus, seen = views["PCI"] or (), views["torch"]
    if seen is None:
        return _without_gpu_build(on_bus, variant, counts, figures)
    if split:
        return _compare_split(on_bus, views, masks, counts, figures)
    absent = [layer for layer, view in views.items() if view is None]
    if absent and on_bus:
        text = f"{' and '.join(absent)}: no answer, with {len(on_bus)} GPUs on the bus ({counts})"
        return CheckResult("fail", text, figures, remedy="install or repair the driver, then reboot")
    agree = len(views.get("NVML") or seen) == len(seen)
    short = {k: v for k, v in masks.items() if v not in ("all", "void") and v.count(",") + 1 < max(2, len(on_bus))}
    hiding = [f"{k}={v}" for k, v in short.items() if agree or k in MASKS[1:]]
    if hiding and len(seen) < len(on_bus):
        return CheckResult("warn", f"{' '.join(hiding)} hides GPUs ({counts})", figures)
    if seen and not on_bus:  # a sandbox shows its cards to the libraries, but hides bus and module
        views = {layer: view for layer, view in views.items() if view}
    expected = on_bus or seen
    for layer, view in views.items():
        if view is not None and len(view) != len(expected):
            return _difference(expected, layer, view, counts, figures)
    return _compare_each(views, counts, figures)


def _compare_split(
    on_bus: Sequence[Gpu], views: Views, masks: Mapping[str, str], counts: str, figures: tuple[Figure, ...]
) -> CheckResult:
    """Compare the layers by cards: torch sees parts of them, amdgpu several parts at one address, and a container may hide some."""
    for layer, view in views.items():
        if view is not None and layer != "torch" and not masks and len({gpu.pci for gpu in view}) < len(on_bus):
            return _difference(on_bus, layer, view, counts, figures)
    text = f"every layer sees the same GPUs; one is split (MIG, partitions), and its parts are not compared ({counts})"
    return CheckResult("ok", text, figures)


def fewer(here: Sequence[Gpu], expected: Mapping[str, Any] | int | None) -> CheckResult | None:
    """Return the failure if there are fewer GPUs than expected; None if there are not, or nothing is expected.

    `expected` is their number, or an object with `count`, the known addresses `pci` and the `source`.
    """
    wanted: Mapping[str, Any] = expected if isinstance(expected, Mapping) else {"count": expected or 0}
    if len(here) >= wanted["count"]:
        return None
    gone = sorted({*wanted.get("pci", ())} - {gpu.pci for gpu in here})
    named = f": missing PCI {', '.join(gone)}" if gone else ""
    source = f" ({wanted['source']})" if "source" in wanted else ""
    figure = Figure("GPUs", len(here), "count", floor=wanted["count"], source=wanted.get("source"))
    remedy = "dmesg and lspci show whether the GPU fell off the bus: restart the host, reseat the GPU; if it was removed, set firstlight_expected_gpus to the remaining number"
    return CheckResult("fail", f"{len(here)} of {wanted['count']} GPUs{named}{source}", (figure,), remedy=remedy)


def _without_gpu_build(
    on_bus: Sequence[Gpu], variant: str | None, counts: str, figures: tuple[Figure, ...]
) -> CheckResult:
    if not on_bus and variant in (None, "cpu"):
        return CheckResult("ok", "no GPU on the bus, and torch is a CPU build", figures)
    if variant == "cpu":
        return CheckResult("warn", f"{len(on_bus)} GPUs are on the bus, and the plan computes on the CPU", figures)
    text = f"torch is a CPU build ({counts})" + (f", and the plan has {variant}" if variant else "")
    return CheckResult("fail", text, figures, remedy="install the torch build for these GPUs")


def _difference(
    on_bus: Sequence[Gpu], layer: str, view: Sequence[Gpu], counts: str, figures: tuple[Figure, ...]
) -> CheckResult:
    known = {gpu.pci for gpu in view if gpu.pci}
    missing = [gpu.pci for gpu in on_bus if gpu.pci and gpu.pci not in known] if known or not view else []
    named = f"; not seen by {layer}: {', '.join(missing)}" if missing else ""
    text = f"the layers have different counts: {counts}{named}"
    return CheckResult("fail", text, figures, remedy="dmesg shows the reason")


def _compare_each(views: Views, counts: str, figures: tuple[Figure, ...]) -> CheckResult:
    lists = {layer: view for layer, view in views.items() if view}
    for attribute in ("uuid", "pci"):
        sets = {layer: {getattr(gpu, attribute) for gpu in view} - {None} for layer, view in lists.items()}
        stated = {layer: values for layer, values in sets.items() if values}
        if len({frozenset(values) for values in stated.values()}) > 1:
            details = "; ".join(f"{layer}: {', '.join(sorted(values))}" for layer, values in stated.items())
            return CheckResult("fail", f"the layers name different GPUs by {attribute}: {details}", figures)
    by_uuid = {gpu.uuid: gpu for gpu in lists.get("NVML", ()) if gpu.uuid}
    share = table("devices")["torch_memory_share"]
    for gpu in lists.get("torch", ()):
        partner = by_uuid.get(gpu.uuid or "")
        if partner and partner.memory and gpu.memory and gpu.memory < share["floor"] * partner.memory:
            text = f"torch sees {gpu.memory / 2**30:.1f} GiB of {gpu.uuid}, NVML {partner.memory / 2**30:.1f} GiB"
            return CheckResult("fail", text, figures)
    order = [gpu.pci for gpu in lists.get("torch", ()) if gpu.pci]
    if order != sorted(order):
        text = f"torch and the bus list the GPUs in different order: {', '.join(order)}"
        return CheckResult("warn", text, figures, remedy="set CUDA_DEVICE_ORDER=PCI_BUS_ID")
    return CheckResult("ok", f"every layer sees the same GPUs ({counts})", figures)


def torch(context: CheckContext) -> CheckResult:
    problem = "torch sees no GPU" if "missing-gpu" in context.faults else context.devices_problem
    if problem:
        return CheckResult("fail", problem, remedy="check whether the driver works: nvidia-smi, on AMD GPUs rocminfo")
    return CheckResult("ok", f"torch computes on {', '.join(context.devices)}")


ALL_GPUS = "nvidia.com/gpu=all"
LIST_CDI = ("nvidia-ctk", "cdi", "list")
RUN_CONTAINER = (
    "podman",
    "run",
    "--rm",
    "--pull=never",
    "--network=none",
    "--security-opt=label=disable",
    "--entrypoint=",
)
QUADLETS = Path("/etc/containers/systemd")
LIMIT_S = 40.0
SPECIFY_AGAIN = "write the specification again: nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml"


def containers(context: CheckContext) -> CheckResult:
    if "missing-gpu" in context.faults:
        return evaluate_containers([Gpu(pci=INJECTED, uuid="GPU-injected")], [ALL_GPUS], serves=True)
    if skipped := skip_without_cards(context):
        return skipped
    if not shutil.which(LIST_CDI[0]):
        return CheckResult("skip", "NVIDIA's container toolkit is not installed")
    gpus, is_split = nvml.gpus() or ((), False)
    if not gpus or is_split:
        return CheckResult("skip", "NVML names no whole GPUs: see devices.driver and devices.modes")
    image = _image(context.service) if os.geteuid() == 0 else None
    named = re.findall(r"nvidia\.com/gpu=\S+", _output(LIST_CDI))
    seen = (
        _output((*RUN_CONTAINER, f"--device={ALL_GPUS}", image, "nvidia-smi", "-L"))
        if image and ALL_GPUS in named
        else None
    )
    return evaluate_containers(gpus, named, seen, serves=image is not None)


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


def evaluate_containers(
    gpus: Sequence[Gpu], named: Collection[str], seen: str | None = None, *, serves: bool
) -> CheckResult:
    """Require all GPUs of the host by index or UUID: a failure if the service runs in a container, else a warning.

    `gpus` are in NVML's order, `named` the devices of the CDI specification, and `seen` is what `nvidia-smi -L` prints in a
    container; None where none was started. `serves` tells whether the service runs in one.
    """
    if not named and not serves:
        text = "no CDI specification names GPUs, and the service runs in no container"
        return CheckResult("skip", text, remedy=SPECIFY_AGAIN)
    status: Status = "fail" if serves else "warn"
    observations = []
    names = {f"{gpu.pci}": {f"nvidia.com/gpu={index}", f"nvidia.com/gpu={gpu.uuid}"} for index, gpu in enumerate(gpus)}
    lacking = [pci for pci, either in names.items() if not either & {*named}]
    if lacking or ALL_GPUS not in named:
        text = f"the CDI specification lacks {', '.join(lacking) or ALL_GPUS}"
        observations.append(Observation(status, text, SPECIFY_AGAIN))
    hidden = [f"{gpu.pci}" for gpu in gpus if seen is not None and f"{gpu.uuid}" not in seen]
    if hidden:
        last = (seen or "it lists none").splitlines()[-1]
        observations.append(Observation(status, f"a container does not see {', '.join(hidden)}: {last}", SPECIFY_AGAIN))
    tried = "a container sees them" if seen is not None else "no container was started, as the service runs in none"
    healthy = f"the CDI specification names all {len(gpus)} GPUs; {tried}"
    return combine(observations, healthy, (), {"named": [*named], "seen": seen})
