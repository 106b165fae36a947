"""devices.gpus: agreement of all layers on the GPUs."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from verify.host.views import Gpu, amd_smi, kernel_driver, nvml, pci, torch_view
from verify.records import CheckContext, CheckResult, Figure
from verify.tables import table

MASKS = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")

Views = Mapping[str, "tuple[Gpu, ...] | None"]
"""GPUs by layer, in the order bus, driver, NVML, torch; None for a layer that is absent."""


def run(context: CheckContext) -> CheckResult:
    amd = torch_view.load().version.hip is not None or (not torch_view.built_for_gpus() and bool(pci.gpus("amd")))
    on_bus = pci.gpus("amd" if amd else "nvidia")
    if "missing-gpu" in context.faults:
        on_bus += (Gpu(pci="0000:ff:00.0"),)
    views: dict[str, tuple[Gpu, ...] | None] = {"PCI": on_bus}
    if amd:
        between, split = amd_views()
    else:
        answer = nvml.gpus()
        between, split = (
            {"kernel driver": kernel_driver.gpus(), "NVML": answer and answer[0]},
            bool(answer and answer[1]),
        )
    views |= between
    views["torch"] = torch_view.gpus() if torch_view.built_for_gpus() else None
    masks = {name: os.environ[name] for name in MASKS if name in os.environ}
    outcome = evaluate(views, variant=context.variant, masks=masks, split=split)
    if outcome.status != "fail":
        outcome = fewer(on_bus or views["torch"] or (), context.expect.get("gpus")) or outcome
    seen = {layer: None if view is None else [asdict(gpu) for gpu in view] for layer, view in views.items()}
    return replace(outcome, evidence={"seen": seen, "masks": masks})


def amd_views() -> tuple[dict[str, tuple[Gpu, ...] | None], bool]:
    """Return what amdgpu and amd-smi, which torch does not need, report, and whether a card is partitioned. Raises AmdSmiError."""
    driver, tool = kernel_driver.amd_gpus(), amd_smi.GPUS.ask()
    views = {"kernel driver": driver} | ({} if tool is None else {"amd-smi": tool})
    return views, len({gpu.pci for gpu in driver or ()}) < len(driver or ())


def evaluate(views: Views, *, variant: str | None, masks: Mapping[str, str], split: bool) -> CheckResult:
    """Compare the layers. `variant` is the planned torch build, None without a plan."""
    figures = tuple(Figure(f"GPUs: {layer}", len(view), "count") for layer, view in views.items() if view is not None)
    counts = ", ".join(f"{layer} {'absent' if view is None else len(view)}" for layer, view in views.items())
    on_bus, seen = views["PCI"] or (), views["torch"]
    if seen is None:
        return _without_gpu_build(on_bus, variant, counts, figures)
    if split:
        text = f"a GPU is split (MIG, partitions), so its parts cannot be compared one by one ({counts})"
        return CheckResult("warn", text, figures)
    absent = [layer for layer, view in views.items() if view is None]
    if absent and on_bus:
        text = f"{' and '.join(absent)}: no answer, with {len(on_bus)} GPUs on the bus ({counts})"
        return CheckResult("fail", text, figures, remedy="install or repair the driver, then reboot")
    if masks and len(seen) < len(on_bus):
        return CheckResult("warn", f"{' '.join(f'{k}={v}' for k, v in masks.items())} hides GPUs ({counts})", figures)
    if seen and not on_bus:  # a sandbox shows its cards to the libraries, but hides bus and module
        views = {layer: view for layer, view in views.items() if view}
    expected = on_bus or seen
    for layer, view in views.items():
        if view is not None and len(view) != len(expected):
            remedy = "dmesg shows the reason"
            return CheckResult("fail", _difference(expected, layer, view, counts), figures, remedy=remedy)
    return _compare_each(views, counts, figures)


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


def _difference(on_bus: Sequence[Gpu], layer: str, view: Sequence[Gpu], counts: str) -> str:
    known = {gpu.pci for gpu in view if gpu.pci}
    missing = [gpu.pci for gpu in on_bus if gpu.pci and gpu.pci not in known] if known or not view else []
    named = f"; not seen by {layer}: {', '.join(missing)}" if missing else ""
    return f"the layers have different counts: {counts}{named}"


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
