"""NVIDIA GPUs as the loaded kernel module lists them."""

from __future__ import annotations

import re
from pathlib import Path

from verify.host.views import Gpu, pci_address

FOLDER = Path("/proc/driver/nvidia")


def gpus(folder: Path = FOLDER) -> tuple[Gpu, ...] | None:
    """Return the GPUs in PCI order; None if no NVIDIA module is loaded."""
    if not (folder / "version").exists():
        return None
    return tuple(_gpu(entry) for entry in sorted((folder / "gpus").glob("*/information")))


def release(folder: Path = FOLDER) -> str | None:
    """Return the release of the loaded module, as `580.82.07`; None if none is loaded or it is unknown."""
    version = folder / "version"
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", version.read_text()) if version.exists() else None
    return found[1] if found else None


def _gpu(information: Path) -> Gpu:
    fields = {}
    for line in information.read_text().splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    uuid = fields.get("GPU UUID", "")
    return Gpu(
        pci=pci_address(fields.get("Bus Location") or information.parent.name),
        uuid=uuid if uuid.startswith("GPU-") and "?" not in uuid else None,  # question marks until first use
        name=fields.get("Model"),
    )
