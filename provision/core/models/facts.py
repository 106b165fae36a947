"""Host facts: what was seen on a host, never what was guessed.

An unknown is null, and `unknown` maps its dotted path (`nvidia.driver_version`) to the reason it could not be read.
Sizes are bytes. Lists are in the order the host gave.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field

from provision.core.models.base import Record

ComputeCapability = Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]$")]


class OperatingSystem(Record):
    """From os-release, uname and the C library itself."""

    id: str | None = None
    version_id: str | None = None
    id_like: tuple[str, ...] = ()
    pretty_name: str | None = None
    kernel: str | None = None
    machine: str | None = None
    """uname -m: x86_64, aarch64."""
    libc: Literal["glibc", "musl"] | None = None
    libc_version: str | None = None
    init: str | None = None
    """Name of PID 1: `systemd` or whatever else runs there."""
    systemd_state: str | None = None
    """What `systemctl is-system-running` says: running, degraded ...; null where systemd does not run."""
    boot_id: str | None = None
    clock_unix_s: float | None = None
    hostname: str | None = None
    package_manager: Literal["apt", "dnf", "zypper", "apk"] | None = None


class User(Record):
    """Who the probe was on the host."""

    name: str | None = None
    uid: int | None = None
    home: str | None = None
    passwordless_sudo: bool | None = None
    lingering: bool | None = None
    systemd_manager: bool | None = None
    """Whether a systemd of this user runs now (`systemctl --user` answers)."""
    groups: tuple[str, ...] | None = None
    """Names of the groups that this login is in; null when they could not be read."""


class Cpu(Record):
    """isa is the highest level that vLLM's CPU builds distinguish."""

    model: str | None = None
    flags: tuple[str, ...] = ()
    isa: Literal["amx", "avx512", "avx2", "sse4_2", "neon", "none"] | None = None
    logical: int | None = None
    sockets: int | None = None
    numa_nodes: int | None = None


class Memory(Record):
    total: int | None = None
    available: int | None = None
    cgroup_limit: int | None = None
    shm: int | None = None

    @property
    def usable(self) -> int | None:
        """What all processes together may take: the machine's memory, or less where the control group sets a limit."""
        return min((size for size in (self.total, self.cgroup_limit) if size), default=None)


class Disk(Record):
    path: str
    """The path asked for (`/`, the prefix, /var/tmp, the home)."""
    mount: str | None = None
    total: int | None = None
    free: int | None = None


class Python(Record):
    path: str
    version: str
    headers: bool | None = None
    venv: bool | None = None
    torch: str | None = None
    """Version of the torch among its packages, as that names itself (`2.7.0+cu126`); null when there is none."""


class Program(Record):
    """A compiler or another program that installing may need."""

    name: str
    path: str
    version: str | None = None


class PciGpu(Record):
    """A display (03xx) or processing (1200) function of NVIDIA, AMD or Intel, seen before any driver."""

    address: str
    vendor_id: str
    """Four hex digits: 10de NVIDIA, 1002 AMD, 8086 Intel."""
    device_id: str
    class_id: str
    driver: str | None = None


class NvidiaGpu(Record):
    index: int
    name: str | None = None
    uuid: str | None = None
    pci_address: str | None = None
    memory_total: int | None = None
    memory_used: int | None = None
    compute_capability: ComputeCapability | None = None
    mig_mode: Literal["enabled", "disabled"] | None = None
    mig_devices: int = 0
    ecc_mode: Literal["enabled", "disabled"] | None = None
    persistence: bool | None = None
    driver_model: str | None = None
    virtualization: str | None = None


class BusDevice(Record):
    """A card or a network card, and where it hangs."""

    address: str
    kind: Literal["card", "network"]
    name: str | None = None
    """Of a network card: `mlx5_0`, `eth0`."""
    bridges: tuple[str, ...] = ()
    """Addresses of the bridges above it, the root port first: two that share more than that are behind one switch."""
    numa_node: int | None = None
    iommu_group: int | None = None


class Topology(Record):
    """How cards, network cards and processors are joined."""

    devices: tuple[BusDevice, ...] = ()
    iommu: Literal["off", "passthrough", "translating"] | None = None
    """What it does to the cards' addresses; null where the kernel does not say."""
    nvlinks: dict[str, int] = Field(default_factory=dict)
    """Links between two cards by nvidia-smi's numbers, `0-1`."""

    @property
    def parted(self) -> tuple[tuple[str, str], ...]:
        """Pairs of cards behind one switch whose IOMMU groups differ: ACS is on there, and sends what they exchange up to the root."""
        cards = [device for device in self.devices if device.kind == "card" and device.iommu_group is not None]
        return tuple(
            (one.address, other.address)
            for place, one in enumerate(cards)
            for other in cards[place + 1 :]
            if one.iommu_group != other.iommu_group and len(one.bridges) > 1 and one.bridges[:2] == other.bridges[:2]
        )


class Nvidia(Record):
    driver_version: str | None = None
    """As nvidia-smi or the loaded kernel module prints it."""
    cuda_version: str | None = None
    """The driver's ceiling, not an installed toolkit."""
    module_version: str | None = None
    module_flavour: Literal["open", "proprietary"] | None = None
    smi_error: str | None = None
    """What nvidia-smi said instead of an answer."""
    gpus: tuple[NvidiaGpu, ...] = ()
    nvswitches: int | None = None
    fabric_manager_version: str | None = None
    fabric_manager_state: str | None = None
    fabric_state: str | None = None
    """`Completed (Success)` when every card joined the NVLink fabric; differing answers by comma; null without one."""


class AmdGpu(Record):
    index: int
    name: str | None = None
    gfx: str | None = None
    uuid: str | None = None
    pci_address: str | None = None
    memory_total: int | None = None


class Amd(Record):
    driver_version: str | None = None
    rocm_version: str | None = None
    gpus: tuple[AmdGpu, ...] = ()


class CudaToolkit(Record):
    path: str
    version: str | None = None
    compat: bool = False
    """Whether the forward compatibility libraries lie in its folder `compat`; without a version there is nothing else of it."""


class Port(Record):
    port: int
    address: str | None = None
    pid: int | None = None
    process: str | None = None


class GpuProcess(Record):
    pid: int
    name: str | None = None
    memory: int | None = None
    gpu: str | None = None


class EngineProcess(Record):
    """A vLLM process (`VLLM::EngineCore`), of a service or left over from one: compare with `Installed.service_pid`."""

    pid: int
    parent: int | None = None
    uid: int | None = None
    user: str | None = None
    name: str | None = None
    state: str | None = None
    """The kernel's letter: R, S, D; T stopped by a signal, Z ended and not collected."""


class Drift(Record):
    """Something of an installation that is no longer as its last run left it."""

    kind: Literal["file", "permissions", "hook", "drop_in", "unit", "process"]
    """A file's content, who may read or write it, a file that Python runs at each start and that nobody installed, a drop-in of our
    unit, the unit as systemd would start it, a process that a signal stopped."""
    path: str
    """A file of the host, or of a process its folder below /proc."""
    text: str
    """What differs, as the end of a sentence that begins with the path."""
    by: str | None = None
    """Who changed it and when, as far as the host knows."""

    @property
    def sentence(self) -> str:
        """What differs, and who changed it."""
        return f"{self.path} {self.text}" + (f"; {self.by}" if self.by else "")


class Installed(Record):
    """What of this product is on the host, under the prefix that was asked for."""

    prefix: str
    state: dict[str, Any] | None = None
    """PREFIX/state.json as it stands, or null."""
    current: str | None = None
    """Folder of the environment that `current` points at: its digest, `DIGEST-2` where it was built anew."""
    previous: str | None = None
    environments: tuple[str, ...] = ()
    """Folders of all complete environments."""
    drift: tuple[Drift, ...] = ()
    """What is no longer as the last run sealed it: small files, the unit as systemd would start it, secrets, model, processes."""
    service: str | None = None
    """active, inactive, failed ... as systemd or supervisor says it."""
    service_pid: int | None = None
    service_start_ticks: int | None = None
    """When its main process was started, in clock ticks since the boot."""
    supervisor: str | None = None
    """Who knows the service: systemd, systemd-user, supervisor; null when nobody does."""
    locked_by: dict[str, Any] | None = None
    """Who holds the host's run lock now: run, controller, user, since."""
    last_verify: dict[str, Any] | None = None
    """PREFIX/verify/last.json: status and time of the last verification."""
    last_ready: dict[str, Any] | None = None
    """PREFIX/verify/ready.json: the last proof of the service, with the main process, its start and the boot that it was of."""


class HostFacts(Record):
    """Everything the probe learned of one host in one round trip."""

    schema_version: Literal[1] = 1
    host: str
    probed_at: str
    """UTC, ISO 8601, the controller's clock."""
    seconds: float | None = None
    clock_skew_s: float | None = None
    os: OperatingSystem = OperatingSystem()
    user: User = User()
    cpu: Cpu = Cpu()
    memory: Memory = Memory()
    disks: tuple[Disk, ...] = ()
    pythons: tuple[Python, ...] = ()
    programs: tuple[Program, ...] = ()
    libraries: dict[str, str | None] = Field(default_factory=dict)
    """Shared library (`libnuma.so.1`) to its path, null when it is absent."""
    pci_gpus: tuple[PciGpu, ...] = ()
    topology: Topology | None = None
    kernel_modules: tuple[str, ...] = ()
    """Loaded ones among nvidia*, nouveau, nova*, amdgpu, ib_umad."""
    secure_boot: bool | None = None
    nvidia: Nvidia | None = None
    amd: Amd | None = None
    cuda_toolkits: tuple[CudaToolkit, ...] = ()
    container: str | None = None
    """docker, podman, lxc, kubernetes, systemd-nspawn ...; null when none."""
    virtualization: str | None = None
    wsl: bool | None = None
    ports: tuple[Port, ...] = ()
    gpu_processes: tuple[GpuProcess, ...] = ()
    engine_processes: tuple[EngineProcess, ...] = ()
    package_source_answers: bool | None = None
    """Whether the host's own package sources answered when asked; null when not asked."""
    installed: Installed | None = None
    unknown: dict[str, str] = Field(default_factory=dict)

    def disk_of(self, path: str) -> Disk | None:
        """The disk that a folder is on, as far as the probe looked: the longest path asked for that contains it."""
        holding = [disk for disk in self.disks if PurePosixPath(path).is_relative_to(disk.path)]
        return max(holding, key=lambda disk: len(disk.path), default=None)
