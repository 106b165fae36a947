"""Host facts: only what was observed, never guesses.

An unknown fact is None, and `unknown` maps its dotted path (`nvidia.driver_version`) to the reason. Sizes are in bytes.
Lists keep the order of the host.
"""

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field

from provision.core.models.base import Record

NOT_ASKED = "only full probes ask for it"
"""Reason in `unknown` of a fact that a command left out."""
ComputeCapability = Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]$")]


class OperatingSystem(Record):
    """Operating system: os-release, uname and C library."""

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
    """Name of PID 1, such as `systemd`."""
    systemd_state: str | None = None
    """State from `systemctl is-system-running`: running, degraded ...; None without systemd, and where no full probe was asked for."""
    boot_id: str | None = None
    clock_unix_s: float | None = None
    hostname: str | None = None
    package_manager: Literal["apt", "dnf", "zypper", "apk"] | None = None


class User(Record):
    """Login user of the probe."""

    name: str | None = None
    uid: int | None = None
    home: str | None = None
    passwordless_sudo: bool | None = None
    lingering: bool | None = None
    groups: tuple[str, ...] | None = None
    """Names of the login's groups; None when unreadable."""


class Cpu(Record):
    """CPU; `isa` is the highest level that vLLM's CPU builds distinguish."""

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
        """Return the memory available to all processes: the machine's, or the control group's lower limit."""
        return min((size for size in (self.total, self.cgroup_limit) if size), default=None)


class Disk(Record):
    path: str
    """Requested path (`/`, the prefix, /var/tmp, the home)."""
    mount: str | None = None
    total: int | None = None
    free: int | None = None


class Python(Record):
    path: str
    version: str
    headers: bool | None = None
    venv: bool | None = None
    torch: str | None = None
    """Version of the installed torch as it reports itself (`2.7.0+cu126`); None without one."""


class Program(Record):
    """A compiler or another program that an installation may need."""

    name: str
    path: str
    version: str | None = None


class PciGpu(Record):
    """PCI function of class display (03xx) or processing (1200) by NVIDIA, AMD or Intel, found without a driver."""

    address: str
    vendor_id: str
    """Four hexadecimal digits: 10de NVIDIA, 1002 AMD, 8086 Intel."""
    device_id: str
    class_id: str
    driver: str | None = None


class GpuSlice(Record):
    """A slice of a GPU in MIG mode."""

    index: int
    """Its number on its GPU."""
    profile: str | None = None
    """`3g.20gb`."""
    uuid: str | None = None
    memory_total: int | None = None


class NvidiaGpu(Record):
    index: int
    name: str | None = None
    uuid: str | None = None
    serial: str | None = None
    """Serial number of the board; GPUs for workstations report none."""
    pci_address: str | None = None
    memory_total: int | None = None
    compute_capability: ComputeCapability | None = None
    mig_mode: Literal["enabled", "disabled"] | None = None
    mig_devices: int = 0
    mig_memory: int | None = None
    """Memory of the first slice, the one that CUDA uses."""
    slices: tuple[GpuSlice, ...] = ()
    """Its MIG devices."""
    ecc_mode: Literal["enabled", "disabled"] | None = None
    persistence: bool | None = None
    driver_model: str | None = None
    virtualization: str | None = None


class BusDevice(Record):
    """A GPU or network card with its PCI position."""

    address: str
    kind: Literal["card", "network"]
    name: str | None = None
    """Name of a network card: `mlx5_0`, `eth0`."""
    bridges: tuple[str, ...] = ()
    """Addresses of the bridges above it, root port first; two devices that share more than that are behind one switch."""
    numa_node: int | None = None
    iommu_group: int | None = None


class Topology(Record):
    """Topology of GPUs, network cards and processors."""

    devices: tuple[BusDevice, ...] = ()
    iommu: Literal["off", "passthrough", "translating"] | None = None
    """Mode of the IOMMU; None when the kernel does not report it."""
    nvlinks: dict[str, int] = Field(default_factory=dict)
    """Links between two GPUs by nvidia-smi's indexes, `0-1`."""

    @property
    def parted(self) -> tuple[tuple[str, str], ...]:
        """GPU pairs behind one switch in different IOMMU groups: ACS sends their traffic through the root."""
        cards = [device for device in self.devices if device.kind == "card" and device.iommu_group is not None]
        return tuple(
            (one.address, other.address)
            for place, one in enumerate(cards)
            for other in cards[place + 1 :]
            if one.iommu_group != other.iommu_group and len(one.bridges) > 1 and one.bridges[:2] == other.bridges[:2]
        )


class Nvidia(Record):
    driver_version: str | None = None
    """As printed by nvidia-smi or the loaded kernel module."""
    mig_layout: str | None = None
    """Slices that firstlight-mig.service makes at boot: `0=3g.20gb,3g.20gb`; None without it."""
    cuda_version: str | None = None
    """Highest CUDA version that the driver supports, not an installed toolkit."""
    module_version: str | None = None
    module_flavour: Literal["open", "proprietary"] | None = None
    smi_error: str | None = None
    """Error text of nvidia-smi."""
    gpus: tuple[NvidiaGpu, ...] = ()
    nvswitches: int | None = None
    fabric_manager_version: str | None = None
    fabric_manager_state: str | None = None
    fabric_state: str | None = None
    """`Completed (Success)` when every GPU joined the NVLink fabric; different values separated by commas; None without one."""


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
    """Whether its folder `compat` has the forward compatibility libraries; without a version nothing else of it exists."""
    lacks: tuple[str, ...] = ()
    """Files that it does not have, of those that kernels compiled at run time need: `bin/nvcc`, `include/curand_kernel.h` ..."""


class Port(Record):
    port: int
    address: str | None = None
    pid: int | None = None
    process: str | None = None
    """The process that listens; None where the user may not see it."""


class EngineProcess(Record):
    """A vLLM process (`VLLM::EngineCore`) of a service or left over; compare with `Installed.service_pid`."""

    pid: int
    parent: int | None = None
    uid: int | None = None
    user: str | None = None
    name: str | None = None
    state: str | None = None
    """Process state of the kernel: R, S, D; T stopped by a signal, Z ended and not collected."""


class Drift(Record):
    """A part of an installation that changed since its last run."""

    kind: Literal["file", "permissions", "hook", "drop_in", "unit", "process"]
    """Content of a file, its permissions, a foreign file that Python runs at start, a drop-in of the unit, the unit as systemd starts it, a stopped process."""
    path: str
    """A file of the host, or the folder of a process below /proc."""
    text: str
    """The difference, as the rest of a sentence that begins with the path."""

    @property
    def sentence(self) -> str:
        """Return the difference."""
        return f"{self.path} {self.text}"


class Installed(Record):
    """The installation on the host below the requested prefix."""

    prefix: str
    state: dict[str, Any] | None = None
    """PREFIX/state.json, or None."""
    current: str | None = None
    """Folder of the environment behind `current`: its digest, or `DIGEST-2` after a rebuild."""
    previous: str | None = None
    release: str | None = None
    """Digest of the release behind `current`; None where an earlier version of this product installed it."""
    previous_release: str | None = None
    releases: tuple[str, ...] = ()
    """Digests of all releases on the host."""
    environments: tuple[str, ...] = ()
    """Folders of all complete environments."""
    models: tuple[str, ...] = ()
    """Folders of all models."""
    model_files: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Files that were put in place in the folder of each model, by its folder."""
    image: str | None = None
    """ID of the image of its container, where podman has it."""
    drift: tuple[Drift, ...] = ()
    """Differences from the last run: small files, the unit as systemd starts it, secrets, model, processes."""
    foreign: tuple[str, ...] = ()
    """What others gave the service's account or left on the host, as sentences: a run names it and leaves it."""
    service: str | None = None
    """State from systemd or supervisor: active, inactive, failed ..."""
    service_pid: int | None = None
    service_start_ticks: int | None = None
    """Start of the main process in clock ticks since boot."""
    supervisor: str | None = None
    """Supervisor of the service: systemd, systemd-user, supervisor; None without one."""
    locked_by: dict[str, Any] | None = None
    """Run that has the host lock: run, controller, user, since."""
    lock_is_left: bool = False
    """Whether the lock's file is there though no run has the lock, since the host lost its power."""
    last_verify: dict[str, Any] | None = None
    """PREFIX/verify/last.json: status and time of the last verification."""
    last_ready: dict[str, Any] | None = None
    """PREFIX/verify/ready.json: the last readiness proof, with main process, its start and the boot."""
    firewall: bool = False
    """Whether a unit loads rules of this product for the firewall."""
    quarantine: dict[str, Any] | None = None
    """PREFIX/quarantine.json: why the host takes no part in runs; empty where the file is no JSON object."""


class Configuration(Record):
    """What an administrator chose, for comparisons of hosts; None where it could not be read."""

    packages: dict[str, str] | None = None
    """Versions by package."""
    sysctl: dict[str, str] | None = None
    firmware: dict[str, str] | None = None
    """BIOS, board and microcode."""
    kernel: dict[str, str] | None = None
    """Parameters of the command line (`cmdline.NAME`), and settings below /sys."""
    driver: dict[str, str] | None = None
    """Parameters of the kernel modules of GPUs, and settings of each GPU (`0.vbios_version`)."""
    services: dict[str, str] | None = None
    """Services, sockets and timers that are enabled or masked."""


class HostFacts(Record):
    """Facts of one host, from one round trip."""

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
    """Path of each shared library (`libnuma.so.1`), None when absent."""
    pci_gpus: tuple[PciGpu, ...] = ()
    topology: Topology | None = None
    kernel_modules: tuple[str, ...] = ()
    """Loaded modules among nvidia*, nouveau, nova*, amdgpu, ib_umad."""
    secure_boot: bool | None = None
    nvidia: Nvidia | None = None
    amd: Amd | None = None
    cuda_toolkits: tuple[CudaToolkit, ...] = ()
    container: str | None = None
    """docker, podman, lxc, kubernetes, systemd-nspawn ...; None outside a container."""
    virtualization: str | None = None
    product: str | None = None
    """Name of the server, or the type of the virtual machine, that the firmware reports: `DGXH100`."""
    wsl: bool | None = None
    ports: tuple[Port, ...] = ()
    engine_processes: tuple[EngineProcess, ...] = ()
    installed: Installed | None = None
    incoming: dict[str, int] = Field(default_factory=dict)
    """Sizes of the files in the incoming folder: of verified ones by their SHA-256, of others by name, such as that in transfer."""
    configuration: Configuration | None = None
    """Only where it was asked for: `./firstlight drift`."""
    unknown: dict[str, str] = Field(default_factory=dict)

    def disk_of(self, path: str) -> Disk | None:
        """Return the disk of a folder: the longest probed path that contains it."""
        holding = [disk for disk in self.disks if PurePosixPath(path).is_relative_to(disk.path)]
        return max(holding, key=lambda disk: len(disk.path), default=None)
