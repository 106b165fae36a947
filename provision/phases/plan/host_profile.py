"""What rules see of a host: the facts and settings they read, and nothing else.

Two hosts with the same view are one class. Sizes are whole GiB, rounded down, and cut off where no rule asks for more,
so that a megabyte more or less does not make a class of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from provision.catalog import catalog
from provision.catalog.versions import numbers
from provision.core.formatting import GIB
from provision.core.models.facts import Disk, HostFacts
from provision.core.models.settings import Settings, default_prefix
from provision.core.models.stack import DriverPlan
from provision.phases.plan import driver_supply
from provision.phases.plan.cards import AmdCard, AnyCard, Card, amd_cards, nvidia_cards, serving, serving_amd
from provision.phases.plan.environment import Environment, environment_of
from provision.phases.plan.policy import Policy, policy_of

if TYPE_CHECKING:
    from provision.phases.plan.fit import DeviceBudget, ServingRequest, Shape

Platform = Literal["cpu", "cuda", "rocm"]
INCOMING = "/var/tmp"  # noqa: S108 - where the controller's bytes arrive on a host

JOINED = "Completed (Success)"
"""The fabric's state where every card has joined."""
SILENT = "no answer from"
"""How the probe begins to tell of a program that ran out of time; whatever else it tells, nvidia-smi is not there."""
HOMES = ("/root", "/home")


@dataclass(frozen=True, slots=True)
class HostPython:
    path: str
    version: str
    headers: bool | None
    torch: str | None = None
    """Its own torch; looked at only where the settings want an existing one."""


@dataclass(frozen=True, slots=True, eq=False)
class Interpreters:
    """What of a view decides which Python an environment gets. One object for equal ones, as `Launch`."""

    pythons: tuple[HostPython, ...]
    known: bool
    installs: bool
    """Whether headers that lack may be installed."""
    with_torch: bool
    """Whether only one that holds the candidate's torch will do."""


@cache
def _interpreters(pythons: tuple[HostPython, ...], known: bool, installs: bool, with_torch: bool) -> Interpreters:
    return Interpreters(pythons, known, installs, with_torch)


@dataclass(frozen=True, slots=True)
class DecidingAttention:
    """What of a view decides on the attention back end."""

    platform: Platform
    kinds: tuple[tuple[str, str | None], ...]
    """Of the cards that serve: name and compute capability."""
    requested: str
    dtype: str
    flash_attn: str
    model: Literal["usual", "latent", "sparse"] = "usual"
    sinks: bool = False
    head_size: int | None = None
    """Of the model; None where it is not known or does not matter."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that is to be served, what is asked of it, and the host's memory that a CPU serves it from (bytes)."""

    model: str
    shape: Shape
    request: ServingRequest
    memory: int | None = None
    """Of the whole host."""
    budget: DeviceBudget | None = None
    """Set where a change of the room is tried; else it follows from the cards."""

    @property
    def gib(self) -> float:
        return self.shape.weights.total / GIB


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    """What of a view decides which GPU code runs. One object for equal ones, so that it is cheap to look things up by."""

    attention: DecidingAttention
    capabilities: tuple[str, ...]


@cache
def _launch(attention: DecidingAttention, capabilities: tuple[str, ...]) -> Launch:
    return Launch(attention, capabilities)


@dataclass(frozen=True)
class HostProfile:
    """One class of hosts, with its policy. None means unknown."""

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
    """Whether installing acts as root there: the login is root's, or the inventory says become."""
    sudo: bool | None = None
    """Whether the login's sudo asks no password: then the inventory could say become."""
    lingering: bool | None = None
    isa: str | None = None
    ram_gib: int | None = None
    disk_gib: int | None = None
    incoming_gib: int | None = None
    one_mount: bool = True
    """The prefix and the folder for incoming bytes lie on the same file system."""
    pythons: tuple[HostPython, ...] = ()
    pythons_known: bool = True
    lacking: tuple[str, ...] = ()
    """Neutral names of system packages that are not there."""
    unsure: tuple[str, ...] = ()
    """Neutral names of system packages that may or may not be there."""
    cards: tuple[Card, ...] = ()
    """The NVIDIA cards that serve: those asked for, else of one kind."""
    present: tuple[Card, ...] = ()
    """All NVIDIA cards of the host."""
    missing_gpus: tuple[int, ...] = ()
    """Indexes that were asked for and are not there."""
    bus_known: bool = True
    """Whether somebody looked which cards there are."""
    amd: tuple[AmdCard, ...] = ()
    """The AMD cards that serve; none beside NVIDIA cards."""
    present_amd: tuple[AmdCard, ...] = ()
    """All AMD cards of the host."""
    rocm: str | None = None
    driver: str | None = None
    driver_absent: bool = False
    driver_odd: str | None = None
    """What the driver says its version is, where that is no version."""
    driver_fault: str | None = None
    """Name of the catalog's fault, where the driver is loaded and does not answer."""
    module: Literal["open", "proprietary"] | None = None
    nvswitches: bool | None = None
    fabric_below: bool = False
    """Whether this is a VM whose cards have joined a fabric that the machine below manages."""
    fabric_manager: str | None = None
    """The version that is installed."""
    container: str | None = None
    container_known: bool = True
    wsl: bool | None = None
    environment: Environment = field(default_factory=Environment)
    served_model: ServedModel | None = None
    """None for the built-in model, and where nothing is served."""

    @cached_property
    def budget(self) -> DeviceBudget | None:
        """The devices that a model meets; None while their memory is unknown."""
        if self.served_model is None or self.served_model.budget is not None:
            return self.served_model.budget if self.served_model else None
        from provision.phases.plan.fit import DeviceBudget  # noqa: PLC0415 - only where a model of the user's is planned
        from provision.phases.plan.fit.tables import fp8_caches  # noqa: PLC0415 - only where a model of the user's is planned

        if self.platform == "cpu":
            return (
                DeviceBudget("cpu", 1, self.served_model.memory, self.isa in fp8_caches()["cpu"].on)
                if self.served_model.memory
                else None
            )
        sizes = [card.memory_gib for card in self.serving]
        if not all(sizes) or any(card.mig for card in self.cards):
            return None
        reads_fp8 = bool(self.capabilities) and set(self.capabilities) <= set(fp8_caches()["cuda"].on)
        return DeviceBudget(self.platform, len(sizes), min(size or 0 for size in sizes) * GIB, reads_fp8)

    @property
    def foreign_driver(self) -> str | None:
        """Whose the driver is where it cannot be changed from inside: the machine's below a container, or Windows'."""
        if self.container:
            return f"container ({self.container})"
        return "WSL" if self.wsl else None

    @cached_property
    def driver_stays(self) -> bool:
        """Whether no candidate can have another driver than the one that is there."""
        if self.foreign_driver is not None:
            return True
        return not (self.driver_absent or self.driver_reinstalled or self.policy.driver in {"upgrade", "pinned"})

    @cached_property
    def driver_reinstalled(self) -> bool:
        """Whether a driver that does not answer is installed anew."""
        return self.driver_fault is not None and self.foreign_driver is None and self.policy.driver != "keep"

    @cached_property
    def driver_request(self) -> driver_supply.DriverRequest:
        """What decides where a driver comes from that is brought, and which."""
        policy = self.policy
        return driver_supply.driver_request(
            version=policy.driver_version,
            branch=policy.driver_branch,
            source=policy.driver_source,
            mirror=policy.driver_mirror,
            broken=self.driver if self.driver_reinstalled and policy.driver != "pinned" else None,
            os_id=self.os_id,
            os_version=self.os_version,
            machine=self.machine,
            secure_boot=self.environment.secure_boot,
            subnet_manager=any(card.row is not None and card.row.subnet_manager for card in self.cards),
        )

    @cached_property
    def kept_driver(self) -> DriverPlan:
        """The driver as it is."""
        return DriverPlan(action="keep", version=self.driver, module=self.module)

    @cached_property
    def needs_open_module(self) -> bool:
        """Whether a card needs the open kernel module although its architecture does not."""
        return any(card.row is not None and card.row.module == "open" for card in self.cards)

    @cached_property
    def kinds(self) -> tuple[tuple[str, str | None], ...]:
        """Name and compute capability of every kind of card that serves."""
        return tuple(dict.fromkeys((card.name, card.compute_capability) for card in self.cards))

    @cached_property
    def deciding_attention(self) -> DecidingAttention:
        policy = self.policy
        common = self.platform, self.kinds, policy.attention, policy.dtype, policy.flash_attn
        if self.served_model is None:
            return DecidingAttention(*common)
        shape = self.served_model.shape
        return DecidingAttention(*common, shape.kind, shape.sinks, shape.head_size if shape.kind == "usual" else None)

    @cached_property
    def interpreters(self) -> Interpreters:
        existing, requested = self.policy.torch == "existing", self.policy.python
        usable = tuple(python for python in self.pythons if requested in {None, python.path})
        return _interpreters(usable, self.pythons_known, self.escalates is not False, existing)

    @cached_property
    def launch(self) -> Launch:
        return _launch(self.deciding_attention, self.capabilities)

    @property
    def serving(self) -> tuple[Card | AmdCard, ...]:
        """The cards that serve, of whichever vendor."""
        return self.cards or self.amd

    @cached_property
    def capabilities(self) -> tuple[str, ...]:
        """The known compute capabilities of the cards that serve, ascending."""
        return tuple(sorted({capability for _, capability in self.kinds if capability}, key=numbers))


def profile_of(
    facts: HostFacts, settings: Settings, *, escalates: bool = False, shape: Shape | None = None
) -> HostProfile:
    """The view of one host; `escalates` says that the inventory lets installing become root there, `shape` is the model's.

    Raises UsageError when the settings contradict each other.
    """
    policy = policy_of(settings)
    cards, amd = nvidia_cards(facts), amd_cards(facts)
    platform: Platform = "cuda" if cards else "rocm" if amd else "cpu"
    root = _escalates(facts, escalates)
    prefix = settings.prefix or _default_prefix(facts, root=root)
    # of a login that nobody knows the first disk that was looked at stands for all
    there = facts.disk_of(prefix) if prefix else next(iter(facts.disks), None)
    arriving = facts.disk_of(INCOMING)
    inhabited = facts.installed is not None and facts.installed.current is not None
    lacking, unsure = _system(facts, platform)
    glibc = facts.os.libc_version if facts.os.libc != "musl" else None
    memory = facts.memory.usable
    served = _load(settings, shape, memory) if shape and policy.wants_vllm and settings.serve else None
    profile = HostProfile(
        policy=policy,
        platform=platform,
        machine=facts.os.machine,
        libc=facts.os.libc,
        glibc=glibc,
        os_id=facts.os.id,
        os_version=facts.os.version_id,
        manager=facts.os.package_manager,
        systemd=None if facts.os.init is None else facts.os.init == "systemd",
        escalates=root,
        sudo=facts.user.passwordless_sudo,
        lingering=facts.user.lingering,
        isa=facts.cpu.isa if platform == "cpu" else None,
        ram_gib=_capped(memory, max(need.memory for need in catalog().needs.values())),
        disk_gib=_free_gib(there, most_disk(served), inhabited=inhabited),
        incoming_gib=_free_gib(arriving, most_disk(served), inhabited=inhabited),
        one_mount=there is None or arriving is None or there.mount is None or there.mount == arriving.mount,
        pythons=_pythons(facts, escalates=root, torch=policy.torch == "existing"),
        pythons_known="pythons" not in facts.unknown,
        lacking=lacking,
        unsure=unsure,
        bus_known=platform != "cpu" or "pci_gpus" not in facts.unknown,
        amd=_chosen(amd, policy.gpus, serving_amd) if platform == "rocm" else (),
        present_amd=amd,
        missing_gpus=_missing(cards or amd, policy.gpus),
        rocm=facts.amd.rocm_version if facts.amd and platform == "rocm" else None,
        container=facts.container,
        container_known="container" not in facts.unknown,
        wsl=facts.wsl if platform != "cpu" else None,
        environment=environment_of(facts, settings) if platform != "cpu" else Environment(),
        served_model=served,
    )
    return _with_nvidia(profile, facts, cards) if cards else profile


def _with_nvidia(profile: HostProfile, facts: HostFacts, cards: tuple[Card, ...]) -> HostProfile:
    nvidia = facts.nvidia
    said = (nvidia.driver_version or nvidia.module_version) if nvidia else None
    version = said if said and re.match(r"\d+(\.\d+)+", said) else None
    loaded = "nvidia" in facts.kernel_modules
    said_unknown = bool({"nvidia", "nvidia.driver_version"} & facts.unknown.keys())
    return replace(
        profile,
        cards=_chosen(cards, profile.policy.gpus, serving),
        present=cards,
        driver=version,
        driver_odd=said if version is None else None,
        driver_absent=version is None and not loaded and (bool(facts.pci_gpus) or not said_unknown),
        driver_fault=_fault(facts) if loaded else None,
        module=nvidia.module_flavour if nvidia else None,
        fabric_manager=nvidia.fabric_manager_version if nvidia else None,
        fabric_below=_has_fabric_below(facts),
        nvswitches=None if nvidia is None or nvidia.nvswitches is None else nvidia.nvswitches > 0,
    )


def _has_fabric_below(facts: HostFacts) -> bool:
    """A VM's cards that have joined without a fabric manager of its own were joined by the machine below."""
    nvidia = facts.nvidia
    if nvidia is None or facts.virtualization in {None, "none"} or nvidia.fabric_manager_version is not None:
        return False
    return nvidia.fabric_state == JOINED


def _fault(facts: HostFacts) -> str | None:
    """The fault that nvidia-smi told of, where it is there and named no card."""
    nvidia = facts.nvidia
    if nvidia is None or nvidia.gpus:
        return None
    said = nvidia.smi_error or facts.unknown.get("nvidia.gpus", "")
    rows = catalog().driver_faults if nvidia.smi_error or said.startswith(SILENT) else ()
    return next((row.name for row in rows if re.search(row.says, said)), None)


def _chosen(
    cards: tuple[AnyCard, ...],
    requested: tuple[int, ...] | None,
    best: Callable[[tuple[AnyCard, ...]], tuple[AnyCard, ...]],
) -> tuple[AnyCard, ...]:
    """The cards that serve: those asked for by index, else the best kind."""
    return best(cards) if requested is None else tuple(card for card in cards if card.index in requested)


def _missing(cards: tuple[Card, ...] | tuple[AmdCard, ...], requested: tuple[int, ...] | None) -> tuple[int, ...]:
    return tuple(index for index in requested or () if index not in {card.index for card in cards})


def _default_prefix(facts: HostFacts, *, root: bool | None) -> str | None:
    """Where an installation goes that no setting places, as `provision.core.install_paths` puts it; null for a login that nobody knows."""
    if root:
        return str(default_prefix(uid=0, home=""))
    if facts.user.uid is None or facts.user.home is None:
        return None
    return str(default_prefix(uid=facts.user.uid, home=facts.user.home))


def most_disk(served: ServedModel | None) -> float:
    """The most GiB that any family of builds asks for, with the model."""
    need, python = catalog().needs.values(), catalog().python_need
    model = served.gib if served else max(row.model for row in need)
    return max(row.installed + row.wheels for row in need) + model + python.installed + python.archive


def _load(settings: Settings, shape: Shape, memory: int | None) -> ServedModel:
    from provision.phases.plan.fit import serving_request_of  # noqa: PLC0415 - only where a model of the user's is planned

    return ServedModel(settings.model, shape, serving_request_of(settings), memory)


def _free_gib(disk: Disk | None, most: float, *, inhabited: bool) -> int | None:
    """Free space; where an environment of this product lives, what it took counts as free: it is there already."""
    if inhabited:
        return math.ceil(most)
    return _capped(disk.free if disk else None, most)


def _capped(size: int | None, most: float) -> int | None:
    return None if size is None else min(size // GIB, math.ceil(most))


def _pythons(facts: HostFacts, *, escalates: bool | None, torch: bool) -> tuple[HostPython, ...]:
    """Interpreters that the service's user can read: a whole system's installation leaves those in homes alone."""
    return tuple(
        HostPython(python.path, version[0], python.headers, python.torch if torch else None)
        for python in facts.pythons
        if (version := re.match(r"\d+(\.\d+)+", python.version))
        and not (escalates and any(PurePosixPath(python.path).is_relative_to(home) for home in HOMES))
    )


def _escalates(facts: HostFacts, by_inventory: bool) -> bool | None:
    if by_inventory or facts.user.uid == 0:
        return True
    return None if facts.user.uid is None else False


def _system(facts: HostFacts, platform: Platform) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of system packages that the host lacks, and of those nobody looked for. Headers are judged with the interpreter."""
    lacking: list[str] = []
    unsure: list[str] = []
    programs = {program.name for program in facts.programs}
    for need in catalog().system_needs:
        if platform not in need.for_build or not (need.library or need.programs):
            continue
        if need.library:
            seen = need.library in facts.libraries
            there = facts.libraries.get(need.library) is not None
        else:
            seen = bool(programs) or "programs" not in facts.unknown
            there = bool(programs & set(need.programs))
        if not there:
            (lacking if seen else unsure).append(need.name)
    return tuple(lacking), tuple(unsure)
