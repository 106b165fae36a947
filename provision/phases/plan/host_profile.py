"""The host profile: the facts and settings that rules read, and nothing else.

Hosts with equal profiles form one class. Sizes are whole GiB, rounded down and capped at the largest size that a rule needs,
so that a megabyte more or less does not create another class.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from provision.catalog.versions import numbers
from provision.core.formatting import GIB
from provision.core.models.facts import Python
from provision.phases.plan.cards import NVIDIA, Card, Server
from provision.phases.plan.fit.serving_request import DeviceBudget, ServingRequest
from provision.phases.plan.fit.shape import Shape
from provision.phases.plan.policy import GivenWheel, Policy

Platform = Literal["cpu", "cuda", "rocm"]
INCOMING = "/var/tmp"  # noqa: S108 - the folder on a host that receives files from the controller


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit in its folder."""

    version: str
    """Its minor version: `13.0`."""
    path: str
    lacks: tuple[str, ...] = ()
    """What it does not have of what kernels compiled at run time need."""


@dataclass(frozen=True)
class ServedModel:
    """The user's model with its serving request."""

    model: str
    shape: Shape
    request: ServingRequest
    memory: int | None = None
    """Memory of the host in bytes, from which a CPU serves."""
    budget: DeviceBudget | None = None
    """Set while a suggestion is tried; else it follows from the cards."""

    @property
    def gib(self) -> float:
        draft = self.shape.draft
        return (self.shape.weights.total + (draft.weights.total if draft else 0)) / GIB


@dataclass(frozen=True)
class HostProfile:
    """One class of hosts with its policy. None means unknown."""

    policy: Policy
    platform: Platform
    machine: str | None = None
    libc: str | None = None
    glibc: str | None = None
    os_id: str | None = None
    os_version: str | None = None
    manager: str | None = None
    systemd: bool | None = None
    escalates: bool | None = None
    """Whether installation acts as root: the login is root, or the inventory sets `ansible_become`."""
    sudo: bool | None = None
    """Whether the login has passwordless sudo, so that `ansible_become` would work."""
    lingering: bool | None = None
    isa: str | None = None
    multiplies_int8: bool | None = None
    """Whether the processor multiplies 8-bit integers without error; None where that is unknown or no model needs it."""
    ram_gib: int | None = None
    disk_gib: int | None = None
    incoming_gib: int | None = None
    one_mount: bool = True
    """Whether the prefix and the folder for incoming files are on the same file system."""
    pythons: tuple[Python, ...] = ()
    """The interpreters that may be used. Their torch is read only under `--set torch=existing`."""
    pythons_known: bool = True
    podman: str | None = None
    """Version of podman, if the service is to run in a container."""
    container_toolkit: str | None = None
    """Version of NVIDIA's container toolkit, if the service is to run in a container."""
    lacking: tuple[str, ...] = ()
    """Neutral names of missing system packages."""
    unsure: tuple[str, ...] = ()
    """Neutral names of system packages that may be missing."""
    cards: tuple[Card, ...] = ()
    """The cards that serve, of one vendor: those that the settings name, else the best kind."""
    present: tuple[Card, ...] = ()
    """All cards of the host, those of NVIDIA first."""
    displays: tuple[str, ...] = ()
    """PCI ids of NVIDIA GPUs that are too old to compute and only show a screen."""
    missing_gpus: tuple[int | str, ...] = ()
    """Requested indexes without a card, and slices that no card has."""
    server: Server | None = None
    """None if its product is not in the catalog."""
    bus_known: bool = True
    """Whether the probe read which cards the host has."""
    rocm: str | None = None
    driver: str | None = None
    driver_absent: bool = False
    driver_fault: str | None = None
    """Name of the catalog's fault if the driver is loaded and does not answer."""
    module: Literal["open", "proprietary"] | None = None
    nvswitches: bool | None = None
    fabric_below: bool = False
    """Whether this is a VM with cards in a fabric that the hypervisor manages."""
    fabric_manager: str | None = None
    """The installed version."""
    container: str | None = None
    container_known: bool = True
    wsl: bool | None = None
    secure_boot: bool | None = None
    rivals: tuple[str, ...] = ()
    """Loaded kernel modules for NVIDIA cards that are not NVIDIA's: nouveau, nova."""
    toolkits: tuple[Toolkit, ...] | None = None
    """The CUDA toolkits with a compiler, by version, ascending."""
    gcc: int | None = None
    """Major version of the host's gcc."""
    groups: tuple[str, ...] | None = None
    """The login's groups among those that may open AMD cards."""
    peer_paths: tuple[str, ...] | None = None
    """Obstacles to direct writes between cards, as text; empty if NVLinks join all cards, None in a virtual machine."""
    umad: bool | None = None
    """Whether ib_umad is loaded, which NVLink's subnet manager needs."""
    served_model: ServedModel | None = None
    """None for the built-in model, and if nothing is served."""
    wheel: GivenWheel | None = None
    """The wheel that the settings name."""

    @property
    def given(self) -> GivenWheel | None:
        """Return the wheel that alone is a candidate; None if the policy is changed to another release."""
        return self.wheel if self.wheel and self.policy.vllm == self.wheel.policy else None

    @property
    def budget(self) -> DeviceBudget | None:
        """Return the devices of the user's model; None if their memory is unknown, or the settings name none that exists."""
        served = self.served_model
        if served is None or served.budget is not None:
            return served.budget if served else None
        if self.platform == "cpu":
            return DeviceBudget("cpu", 1, served.memory) if served.memory else None
        sizes = [card.memory_gib for card in self.cards]
        if not sizes or not all(sizes):
            return None
        return DeviceBudget(self.platform, len(sizes), min(size or 0 for size in sizes) * GIB)

    @property
    def way_to_root(self) -> str:
        """Return how installation may become root where the login is not."""
        if self.sudo:
            return "`ansible_become: true` (this user has passwordless sudo)"
        return "`-K` (if this user may use sudo)"

    @property
    def foreign_driver(self) -> str | None:
        """Return the reason why the driver cannot be changed from this host: a container, or WSL."""
        if self.container:
            return f"a container ({self.container})"
        return "WSL" if self.wsl else None

    @property
    def driver_stays(self) -> bool:
        """Return whether every candidate must use the present driver."""
        if self.foreign_driver is not None:
            return True
        return not (self.driver_absent or self.driver_reinstalled or self.policy.driver in {"upgrade", "pinned"})

    @property
    def driver_reinstalled(self) -> bool:
        """Return whether a driver that does not answer is reinstalled."""
        return self.driver_fault is not None and self.foreign_driver is None and self.policy.driver != "keep"

    @property
    def needs_open_module(self) -> bool:
        """Return whether a card needs the open kernel module although its architecture does not."""
        return any(card.row is not None and card.row.module == "open" for card in self.usable)

    @cached_property
    def kinds(self) -> tuple[tuple[str, str | None], ...]:
        """Return name and compute capability of every kind of NVIDIA card that serves."""
        nvidia = (card for card in self.cards if card.vendor == NVIDIA)
        return tuple(dict.fromkeys((card.name, card.compute_capability) for card in nvidia))

    @property
    def model_kind(self) -> Literal["usual", "latent", "sparse"]:
        """Return what the model's layers attend to."""
        return self.served_model.shape.kind if self.served_model else "usual"

    @property
    def usable_pythons(self) -> tuple[Python, ...]:
        """Return the interpreters that may be used: all, or the one that the settings name."""
        return tuple(python for python in self.pythons if self.policy.python in {None, python.path})

    @property
    def usable(self) -> tuple[Card, ...]:
        """Return the cards that may serve: no build runs on those of two vendors together."""
        return tuple(card for card in self.present if card.vendor == self.present[0].vendor)

    @cached_property
    def capabilities(self) -> tuple[str, ...]:
        """Return the known compute capabilities of the cards that serve, ascending."""
        return tuple(sorted({capability for _, capability in self.kinds if capability}, key=numbers))
