"""What lies around the cards and the Stack on a host: firmware, rival kernel modules, compilers, libraries, the login's groups."""

from __future__ import annotations

from dataclasses import dataclass

from provision.catalog import catalog
from provision.catalog.versions import minor, numbers
from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings

LIBRARY_VARIABLES = ("LD_LIBRARY_PATH", "LD_PRELOAD", "VLLM_NCCL_SO_PATH")
"""Variables of the service by which another copy of a library comes before the wheel's own."""
PROGRAMS = "programs"


@dataclass(frozen=True, slots=True)
class Environment:
    """None means unknown; for a tuple, that nobody looked."""

    secure_boot: bool | None = None
    rivals: tuple[str, ...] = ()
    """Loaded kernel modules that hold NVIDIA cards and are not NVIDIA's: nouveau, nova."""
    toolkits: tuple[str, ...] | None = None
    """Minor versions of the CUDA toolkits with a compiler, ascending."""
    gcc: int | None = None
    """Major version of the host's gcc."""
    nccl: str | None = None
    """Path of an NCCL that the system holds."""
    library_variables: tuple[str, ...] = ()
    """Which of LIBRARY_VARIABLES the settings give the service."""
    groups: tuple[str, ...] | None = None
    """Which of the groups that open AMD cards the login is in."""
    peer_paths: tuple[str, ...] | None = None
    """What sends writes between cards a long way round, in words; none where NVLinks join all cards, null in a virtual machine."""
    umad: bool | None = None
    """Whether the kernel module is loaded through which the subnet manager of NVLink talks."""


def peer_paths(facts: HostFacts) -> tuple[str, ...] | None:
    """What stands between cards that exchange over the bus: an IOMMU that translates, ACS on the switch above them."""
    topology = facts.topology
    if topology is None or facts.virtualization:
        return None
    cards = sum(device.kind == "card" for device in topology.devices)
    if cards < 2 or len(topology.nvlinks) >= cards * (cards - 1) // 2:
        return ()
    said = ["the IOMMU translates what cards write to one another"] if topology.iommu == "translating" else []
    if parted := topology.parted:
        first, second = parted[0]
        more = f" and {len(parted) - 1} more pairs" if len(parted) > 1 else ""
        said.append(f"ACS parts {first} and {second}{more}, which are behind one switch")
    return tuple(said)


def environment_of(facts: HostFacts, settings: Settings) -> Environment:
    """What rules read of a host beside its cards, system and disks; only as fine as they distinguish."""
    gcc = next((program.version for program in facts.programs if program.name == "gcc" and program.version), None)
    unseen = bool({"cuda_toolkits", PROGRAMS} & facts.unknown.keys())
    toolkits = tuple(sorted({minor(kit.version) for kit in facts.cuda_toolkits if kit.version}, key=numbers))
    needed = {row.name for row in catalog().access_groups}
    return Environment(
        secure_boot=facts.secure_boot,
        rivals=tuple(sorted(name for name in facts.kernel_modules if name.startswith(("nouveau", "nova")))),
        toolkits=None if unseen and not toolkits else toolkits,
        gcc=numbers(gcc)[0] if gcc else None,
        nccl=facts.libraries.get("libnccl.so.2"),
        library_variables=tuple(name for name in LIBRARY_VARIABLES if name in settings.env),
        peer_paths=peer_paths(facts),
        groups=None if facts.user.groups is None else tuple(sorted(needed & set(facts.user.groups))),
        umad="ib_umad" in facts.kernel_modules if facts.kernel_modules else None,
    )
