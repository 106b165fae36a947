"""Rows about cards, processors, drivers, CUDA and ROCm."""

from typing import Literal

from provision.catalog.rows import Row


class CudaMajor(Row):
    """The lowest driver that runs native code of a CUDA major."""

    major: int
    driver: str


class Toolkit(Row):
    """The lowest driver that runs all output of a CUDA toolkit, PTX included."""

    version: str
    driver: str


class Branch(Row):
    """A driver branch."""

    branch: int
    cuda: str | None = None
    kind: str | None = None
    """`lts`, `production` or `new-feature`."""
    end_of_life: str | None = None
    """A month (2026-06), or `ended` if the day was not published."""
    newest: str | None = None


class DriverFault(Row):
    """A fault of a driver that is loaded and does not answer."""

    name: str
    pattern: str
    """A regular expression for the output of nvidia-smi."""
    text: str
    remedy: str


class DriverOffer(Row):
    """The driver that is installed if the settings name none."""

    version: str
    as_of: str
    """The month in which the branches were read."""


class HostCompiler(Row):
    """The newest gcc that a toolkit's nvcc accepts."""

    cuda: str
    gcc: int


class NvidiaCard(Row):
    name: str
    ids: tuple[str, ...]
    compute_capability: str
    memory_gib: int
    smaller: dict[str, int] | None = None
    """The memory of PCI ids whose cards have less."""
    kind: Literal["data-centre", "workstation", "geforce"]
    switched_board: int | None = None
    """The number of cards on its board with NVSwitches."""
    subnet_manager: bool = False
    """Whether nvlsm runs these NVSwitches together with the fabric manager; they are network cards on the bus."""
    module: Literal["open"] | None = None
    """Set if the card needs the open module although its architecture does not."""
    machine: Literal["aarch64"] | None = None
    """Set if the card shares its board with a processor of that architecture (Grace)."""
    machines: tuple[str, ...] = ()
    """Machines with one such card, whose names `--what-if` takes as well."""

    def memory_of(self, device_id: str) -> int:
        """Return the memory of the card with a PCI device id, or of the usual card for another one."""
        return (self.smaller or {}).get(device_id.lower(), self.memory_gib)


class ServerProduct(Row):
    """A server by its product name."""

    name: str
    match: str
    """A regular expression for the whole name that the firmware reports."""
    gpus: int
    cards: tuple[str, ...]
    """Names of its cards in the catalog; one kind in each server."""
    nics: int | None = None
    """Network cards behind one PCIe switch with a GPU, where the product always has them."""
    virtual: bool = False
    """Whether it is a type of virtual machine; in others some GPUs of a server may be missing."""


class PciRange(Row):
    """PCI device ids of one generation of NVIDIA cards, both ends included."""

    first: str
    last: str
    compute_capability: str


class Architecture(Row):
    """A generation of NVIDIA cards."""

    compute_capability: str
    name: str
    module: Literal["open", "proprietary"]
    module_only: bool = False
    last_branch: int | None = None
    first_driver: str | None = None


class AmdCard(Row):
    name: str
    ids: tuple[str, ...]
    gfx: str
    memory_gib: int | None = None


class IntegratedGraphics(Row):
    """AMD architectures of integrated graphics."""

    gfx: tuple[str, ...]


class Userspace(Row):
    """The ROCm that a variant needs on the host."""

    variant: str
    minimum: str
    below: str


class AccessGroup(Row):
    """A system group whose members may open AMD cards."""

    name: str


class Level(Row):
    """A level of a processor's instruction set."""

    name: str
    machine: str
    rank: int
