"""GPUs as torch lists them. All functions except `load` and `built_for_gpus` touch the driver: call them in a child process."""

from typing import Any

from verify.host.views import Gpu


def load() -> Any:
    """Return torch. What its import raises tells why it cannot be used: other checks of the host run without it."""
    import torch  # noqa: PLC0415 - see above

    return torch


def built_for_gpus() -> bool:
    """Return whether this torch is a CUDA or ROCm build."""
    torch = load()
    return torch.version.cuda is not None or torch.version.hip is not None


def gpu_count() -> int:
    """Return how many GPUs torch can use."""
    return int(load().cuda.device_count())


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs in torch's order, which CUDA_DEVICE_ORDER and CUDA_VISIBLE_DEVICES determine."""
    torch = load()
    return tuple(_gpu(torch.cuda.get_device_properties(index)) for index in range(gpu_count()))


def address(device: str) -> str | None:
    """Return the PCI address of a device; None for CPUs, and if this torch does not report it."""
    return None if device == "cpu" else gpus()[int(device.partition(":")[2])].pci


def _gpu(properties: Any) -> Gpu:
    """Older releases of torch report neither UUID nor PCI address."""
    uuid = getattr(properties, "uuid", None)
    pci = None
    if hasattr(properties, "pci_bus_id"):
        pci = f"{properties.pci_domain_id:04x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"
    return Gpu(pci, f"GPU-{uuid}" if uuid else None, str(properties.name), int(properties.total_memory))
