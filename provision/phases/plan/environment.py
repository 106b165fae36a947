"""The environment of the cards and the Stack: firmware, rival kernel modules, compilers, libraries, the login's groups."""

from dataclasses import dataclass

from provision.catalog import catalog
from provision.catalog.versions import minor, numbers
from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings

LIBRARY_VARIABLES = ("LD_LIBRARY_PATH", "LD_PRELOAD", "VLLM_NCCL_SO_PATH")
"""Variables that let another copy of a library replace the wheel's."""
PROGRAMS = "programs"
NVCC = "bin/nvcc"


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit in its folder."""

    version: str
    """Its minor version: `13.0`."""
    path: str
    lacks: tuple[str, ...] = ()
    """What it does not have of what kernels compiled at run time need."""


@dataclass(frozen=True)
class Environment:
    """The environment of one host. None means unknown."""

    secure_boot: bool | None = None
    rivals: tuple[str, ...] = ()
    """Loaded kernel modules for NVIDIA cards that are not NVIDIA's: nouveau, nova."""
    toolkits: tuple[Toolkit, ...] | None = None
    """The CUDA toolkits with a compiler, by version, ascending."""
    gcc: int | None = None
    """Major version of the host's gcc."""
    nccl: str | None = None
    """Path of the system's NCCL."""
    library_variables: tuple[str, ...] = ()
    """The LIBRARY_VARIABLES that the settings set."""
    groups: tuple[str, ...] | None = None
    """The login's groups among those that may open AMD cards."""
    peer_paths: tuple[str, ...] | None = None
    """Obstacles to direct writes between cards, as text; empty if NVLinks join all cards, None in a virtual machine."""
    umad: bool | None = None
    """Whether ib_umad is loaded, which NVLink's subnet manager needs."""


def peer_paths(facts: HostFacts) -> tuple[str, ...] | None:
    """Return the obstacles to direct writes over the bus: a translating IOMMU, and ACS on the switch above the cards."""
    topology = facts.topology
    if topology is None or facts.virtualization:
        return None
    cards = sum(device.kind == "card" for device in topology.devices)
    if cards < 2 or len(topology.nvlinks) >= cards * (cards - 1) // 2:
        return ()
    obstacles = ["the IOMMU translates writes between GPUs"] if topology.iommu == "translating" else []
    if parted := topology.parted:
        first, second = parted[0]
        more = f" and {len(parted) - 1} more pairs" if len(parted) > 1 else ""
        obstacles.append(f"ACS separates {first} and {second}{more} behind one switch")
    return tuple(obstacles)


def environment_of(facts: HostFacts, settings: Settings) -> Environment:
    """Return the environment of a host, in no more detail than rules distinguish."""
    gcc = next((program.version for program in facts.programs if program.name == "gcc" and program.version), None)
    unknown = bool({"cuda_toolkits", PROGRAMS} & facts.unknown.keys())
    toolkits = tuple(
        sorted(
            (
                Toolkit(minor(kit.version), kit.path, kit.lacks)
                for kit in facts.cuda_toolkits
                if kit.version and NVCC not in kit.lacks
            ),
            key=lambda kit: (numbers(kit.version), not kit.lacks),
        )
    )
    needed = {row.name for row in catalog().access_groups}
    return Environment(
        secure_boot=facts.secure_boot,
        rivals=tuple(sorted(name for name in facts.kernel_modules if name.startswith(("nouveau", "nova")))),
        toolkits=None if unknown and not toolkits else toolkits,
        gcc=numbers(gcc)[0] if gcc else None,
        nccl=facts.libraries.get("libnccl.so.2"),
        library_variables=tuple(name for name in LIBRARY_VARIABLES if name in settings.env),
        peer_paths=peer_paths(facts),
        groups=None if facts.user.groups is None else tuple(sorted(needed & set(facts.user.groups))),
        umad="ib_umad" in facts.kernel_modules if facts.kernel_modules else None,
    )
