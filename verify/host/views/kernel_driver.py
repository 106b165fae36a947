"""GPUs as the loaded kernel modules list them."""

import re
from pathlib import Path

from verify.files import small_text
from verify.host.views import Gpu, pci_address

FOLDER = Path("/proc/driver/nvidia")


def gpus(folder: Path = FOLDER) -> tuple[Gpu, ...] | None:
    """Return the NVIDIA GPUs in PCI order; None if no module of theirs is loaded."""
    if not (folder / "version").exists():
        return None
    return tuple(_gpu(entry) for entry in sorted((folder / "gpus").glob("*/information")))


def release(folder: Path = FOLDER) -> str | None:
    """Return the release of the loaded NVIDIA module, as `580.82.07`; None if none is loaded or it is unknown."""
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


AMD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")


def amd_gpus(nodes: Path = AMD_NODES) -> tuple[Gpu, ...] | None:
    """Return the AMD GPUs in the order of amdgpu, which is HIP's; a partitioned card occurs once per partition. None without it."""
    if not nodes.is_dir():
        return None
    found = []
    for node in sorted(nodes.iterdir(), key=lambda path: int(path.name)):
        # The kernel shows no properties of GPUs that a container was not given.
        properties = dict(line.split(" ", 1) for line in small_text(node / "properties").splitlines() if " " in line)
        if int(properties.get("simd_count", 0)):  # others are processors
            place, domain = int(properties["location_id"]), int(properties.get("domain", 0))
            # The last three bits number the partitions of a card, in newer drivers the first four.
            found.append(Gpu(pci=f"{domain:04x}:{place >> 8 & 0xFF:02x}:{place >> 3 & 0x1F:02x}.0"))
    return tuple(found)
