"""AMD GPUs as the loaded amdgpu driver lists them for compute."""

from __future__ import annotations

from pathlib import Path

from verify.host.views import Gpu

NODES = Path("/sys/class/kfd/kfd/topology/nodes")


def gpus(nodes: Path = NODES) -> tuple[Gpu, ...] | None:
    """Return the GPUs in the driver's order, which is HIP's; a partitioned card occurs once per partition. None without amdgpu."""
    if not nodes.is_dir():
        return None
    found = []
    for node in sorted(nodes.iterdir(), key=lambda path: int(path.name)):
        properties = dict(line.split(" ", 1) for line in (node / "properties").read_text().splitlines() if " " in line)
        if int(properties.get("simd_count", 0)):  # others are processors
            place, domain = int(properties["location_id"]), int(properties.get("domain", 0))
            pci = f"{domain:04x}:{place >> 8 & 0xFF:02x}:{place >> 3 & 0x1F:02x}.{place & 7}"
            found.append(Gpu(pci=pci))
    return tuple(found)
