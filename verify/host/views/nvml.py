"""NVIDIA GPUs and their health as NVML reports them, through ctypes.

nvidia-smi uses the same library, but needs seconds and renames its output in every release.
"""

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import permutations
from typing import Any

from verify.host.views import Gpu, pci_address

LIBRARY = "libnvidia-ml.so.1"
SUCCESS = 0
P2P_BY_NVLINK, P2P_OK = 2, 0
"""NVML_P2P_CAPS_INDEX_NVLINK of nvmlGpuP2PCapsIndex_t, NVML_P2P_STATUS_OK of nvmlGpuP2PStatus_t."""
UNKNOWN_TO_IT = frozenset({2, 3, 4, 13, 25})
"""NVML_ERROR_INVALID_ARGUMENT, _NOT_SUPPORTED, _NO_PERMISSION, _FUNCTION_NOT_FOUND, _ARGUMENT_VERSION_MISMATCH (nvml.h)."""
VOLATILE, AGGREGATE = 0, 1
"""Since the driver was loaded; since the card was made (nvmlEccCounterType_t)."""
UNCORRECTED = 1
SENSOR = 0
"""NVML_TEMPERATURE_GPU: the sensor of the chip."""
MEMORY_MAX, CHIP_MAX = 2, 3
"""NVML_TEMPERATURE_THRESHOLD_MEM_MAX and _GPU_MAX: the highest temperatures at which memory and chip may work."""
MEMORY_SENSOR = 82
"""NVML_FI_DEV_MEMORY_TEMP: degrees, an unsigned number."""
VGPU = 2
"""NVML_GPU_VIRTUALIZATION_MODE_VGPU of nvmlGpuVirtualizationMode_t."""
MULTIPROCESSORS = 1
"""NVML_CLOCK_SM of nvmlClockType_t."""
MOST_LINKS = 36
"""NVML_NVLINK_MAX_LINKS of the newest nvml.h; cards and drivers reject numbers that they do not have."""
LINK_ERRORS = {0: "replay", 1: "recovery", 2: "CRC of flits", 3: "CRC of data"}
"""nvmlNvLinkErrorCounter_t."""
FABRIC_VERSION = 0x02000024
"""nvmlGpuFabricInfo_v2: the version, and the structure's 36 bytes."""


class NvmlError(Exception):
    """A call of NVML failed; the message is the library's own."""


class NvmlMissingError(NvmlError):
    """The library cannot be loaded."""


class _PciInfo(ctypes.Structure):
    """nvmlPciInfo_t of nvml.h, version 3."""

    _fields_ = (
        ("busIdLegacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("pciDeviceId", ctypes.c_uint),
        ("pciSubSystemId", ctypes.c_uint),
        ("busId", ctypes.c_char * 32),
    )


class _Memory(ctypes.Structure):
    """nvmlMemory_t of nvml.h: bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _FieldValue(ctypes.Structure):
    """nvmlFieldValue_t of nvml.h, whose value is a union of numbers of up to 8 bytes."""

    _fields_ = (
        ("fieldId", ctypes.c_uint),
        ("scopeId", ctypes.c_uint),
        ("timestamp", ctypes.c_longlong),
        ("latencyUsec", ctypes.c_longlong),
        ("valueType", ctypes.c_uint),
        ("nvmlReturn", ctypes.c_uint),
        ("uiVal", ctypes.c_uint),
        ("rest", ctypes.c_uint),
    )


class _FabricInfo(ctypes.Structure):
    """nvmlGpuFabricInfo_v2_t of nvml.h."""

    _fields_ = (
        ("version", ctypes.c_uint),
        ("clusterUuid", ctypes.c_uint8 * 16),
        ("status", ctypes.c_uint),
        ("cliqueId", ctypes.c_uint32),
        ("state", ctypes.c_uint),
        ("healthMask", ctypes.c_uint32),
    )


@contextmanager
def opened(library: str = LIBRARY) -> Iterator[tuple[Any, list[ctypes.c_void_p]]]:
    """Open the library, and yield a handle of each GPU in its order. Raises NvmlError."""
    try:
        nvml = ctypes.CDLL(library)
    except OSError as error:
        raise NvmlMissingError(f"{library} cannot be loaded: {error}") from None
    nvml.nvmlErrorString.restype = ctypes.c_char_p
    ask(nvml, "nvmlInit_v2")
    try:
        count = ctypes.c_uint()
        ask(nvml, "nvmlDeviceGetCount_v2", ctypes.byref(count))
        handles = [ctypes.c_void_p() for _ in range(count.value)]
        for index, handle in enumerate(handles):
            ask(nvml, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
        yield nvml, handles
    finally:
        nvml.nvmlShutdown()


def gpus(library: str = LIBRARY) -> tuple[tuple[Gpu, ...], bool] | None:
    """Return the GPUs in NVML's order, which is the PCI bus's, and whether one of them is split (MIG).

    None if the library is not installed. Raises NvmlError.
    """
    try:
        with opened(library) as (nvml, handles):
            modes = [numbers(nvml, "nvmlDeviceGetMigMode", handle, 2) for handle in handles]
            return tuple(_gpu(nvml, handle) for handle in handles), any(mode and mode[0] for mode in modes)
    except NvmlMissingError:
        return None


def nvlinked(library: str = LIBRARY) -> tuple[bool, ...]:
    """Return for each ordered pair of GPUs whether NVLinks connect them. Raises NvmlError, also without the library."""
    with opened(library) as (nvml, handles):
        found = []
        for one, other in permutations(handles, 2):
            status = ctypes.c_uint()
            asked = (one, other, ctypes.c_uint(P2P_BY_NVLINK), ctypes.byref(status))
            found.append(is_known(nvml, "nvmlDeviceGetP2PStatus", *asked) and status.value == P2P_OK)
        return tuple(found)


def release(library: str = LIBRARY) -> str | None:
    """Return the release of the loaded driver, as `580.82.07`; None if NVML does not start."""
    version = ctypes.create_string_buffer(96)
    try:
        with opened(library) as (nvml, _):
            ask(nvml, "nvmlSystemGetDriverVersion", version, ctypes.c_uint(96))
    except NvmlError:
        return None
    return version.value.decode()


def _gpu(nvml: Any, handle: ctypes.c_void_p) -> Gpu:
    pci, memory = _PciInfo(), _Memory()
    name, uuid = ctypes.create_string_buffer(96), ctypes.create_string_buffer(96)
    ask(nvml, "nvmlDeviceGetPciInfo_v3", handle, ctypes.byref(pci))
    is_known(nvml, "nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))  # not of a GB10, which uses the host's
    ask(nvml, "nvmlDeviceGetName", handle, name, ctypes.c_uint(96))
    ask(nvml, "nvmlDeviceGetUUID", handle, uuid, ctypes.c_uint(96))
    return Gpu(pci_address(pci.busId.decode()), uuid.value.decode(), name.value.decode(), memory.total or None)


def numbers(
    nvml: Any, name: str, handle: ctypes.c_void_p, count: int = 1, *, before: tuple[int, ...] = (), wide: bool = False
) -> tuple[int, ...] | None:
    """Call a function that writes `count` unsigned numbers (64 bits if `wide`) after `before` inputs, and return them.

    None if card or driver do not support the call. Raises NvmlError.
    """
    answers = [ctypes.c_ulonglong() if wide else ctypes.c_uint() for _ in range(count)]
    known = is_known(nvml, name, handle, *map(ctypes.c_uint, before), *map(ctypes.byref, answers))
    return tuple(answer.value for answer in answers) if known else None


def is_known(nvml: Any, name: str, *arguments: Any) -> bool:
    """Make a call, and return whether card and driver support it. Raises NvmlError."""
    code = getattr(nvml, name)(*arguments) if hasattr(nvml, name) else None
    if code not in (None, SUCCESS, *UNKNOWN_TO_IT):
        raise NvmlError(f"{name}: {nvml.nvmlErrorString(code).decode()} ({code})")
    return code == SUCCESS


def ask(nvml: Any, name: str, *arguments: Any) -> None:
    """Make a call that must succeed. Raises NvmlError."""
    if (code := getattr(nvml, name)(*arguments)) != SUCCESS:
        raise NvmlError(f"{name}: {nvml.nvmlErrorString(code).decode()} ({code})")


@dataclass(frozen=True)
class Fabric:
    """NVSwitch state of a card: nvmlGpuFabricState_t, an NVML return code, bits of NVML_GPU_FABRIC_HEALTH_MASK."""

    state: int
    status: int
    health: int


@dataclass(frozen=True)
class Health:
    """One card; None for values that it or its driver does not report."""

    pci: str
    name: str
    ecc: tuple[bool, bool] | None = None
    """Now, and after the next reset."""
    ecc_by_default: bool | None = None
    uncorrected: tuple[int, int] | None = None
    """Uncorrected memory errors: since the driver was loaded, since the card was made."""
    remapped: tuple[int, int] | None = None
    """Rows replaced by spare ones after corrected errors, and after uncorrected errors."""
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    retirement_pending: bool | None = None
    """Retirement of pages, on cards before Ampere."""
    clock_reasons: int | None = None
    """Bits of nvmlClocksEventReasons: why clocks are not higher."""
    throttling: Mapping[str, bool] | None = None
    """Of an AMD GPU: whether each reason slows it down, by amd-smi's names; empty if unknown. GPUs before the MI300 have one for all reasons."""
    clock_mhz: int | None = None
    """Clock of the multiprocessors."""
    clock_max_mhz: int | None = None
    temperature_c: int | None = None
    temperature_max_c: int | None = None
    memory_c: int | None = None
    """Temperature of the memory; only of HBM, and of some cards with GDDR."""
    memory_max_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    power_default_w: float | None = None
    persistence: bool | None = None
    compute_mode: int | None = None
    """nvmlComputeMode_t."""
    mig: tuple[bool, bool] | None = None
    """Now, and after the next reset."""
    links: tuple[bool, ...] = ()
    """NVLinks by number: whether each is up."""
    link_errors: Mapping[str, int] = field(default_factory=dict)
    """Errors of all links since the driver was loaded, by kind; without the kinds that the card does not count."""
    fabric: Fabric | None = None
    virtual: bool | None = None
    """Whether it is a vGPU: a part of a card that the hypervisor's host divides."""

    @property
    def is_split(self) -> bool:
        """Whether it is in MIG mode now."""
        return bool(self.mig and self.mig[0])


def read_health(library: str = LIBRARY) -> tuple[Health, ...]:
    """Return the cards in NVML's order. Raises NvmlError, also without the library."""
    with opened(library) as (nvml, handles):
        return tuple(_health(nvml, handle) for handle in handles)


def one_number(nvml: Any, handle: ctypes.c_void_p, name: str, convert: Callable[[int], Any] = int, **how: Any) -> Any:
    """Return the converted number that a function writes; None if card or driver do not support it. Raises NvmlError."""
    found = numbers(nvml, name, handle, **how)
    return convert(found[0]) if found else None


def read_limits(nvml: Any, handle: ctypes.c_void_p) -> Health:
    """Return address, name, maximum clock, and limits of power and temperature of a card, which no load changes. Raises NvmlError."""
    known, threshold = _gpu(nvml, handle), "nvmlDeviceGetTemperatureThreshold"
    return Health(
        pci=known.pci or "",
        name=known.name or "",
        clock_max_mhz=one_number(nvml, handle, "nvmlDeviceGetMaxClockInfo", before=(MULTIPROCESSORS,)),
        temperature_max_c=one_number(nvml, handle, threshold, before=(CHIP_MAX,)),
        memory_max_c=one_number(nvml, handle, threshold, before=(MEMORY_MAX,)),
        power_limit_w=one_number(nvml, handle, "nvmlDeviceGetPowerManagementLimit", _watts),
        power_default_w=one_number(nvml, handle, "nvmlDeviceGetPowerManagementDefaultLimit", _watts),
    )


def read_load(nvml: Any, handle: ctypes.c_void_p, known: Health) -> Health:
    """Return the card with what changes with its load: many times a second. `known` is from `read_limits`. Raises NvmlError."""
    one = partial(one_number, nvml, handle)
    reasons = one("nvmlDeviceGetCurrentClocksEventReasons", wide=True)
    if reasons is None:  # its name before driver 535
        reasons = one("nvmlDeviceGetCurrentClocksThrottleReasons", wide=True)
    memory = _FieldValue(fieldId=MEMORY_SENSOR)
    has_sensor = is_known(nvml, "nvmlDeviceGetFieldValues", handle, ctypes.c_int(1), ctypes.byref(memory))
    return replace(
        known,
        clock_reasons=reasons,
        clock_mhz=one("nvmlDeviceGetClockInfo", before=(MULTIPROCESSORS,)),
        temperature_c=one("nvmlDeviceGetTemperature", before=(SENSOR,)),
        memory_c=memory.uiVal if has_sensor and memory.nvmlReturn == SUCCESS else None,
        power_w=one("nvmlDeviceGetPowerUsage", _watts),
    )


def _watts(milliwatts: int) -> float:
    return milliwatts / 1000


def _health(nvml: Any, handle: ctypes.c_void_p) -> Health:
    one = partial(one_number, nvml, handle)

    def two(name: str) -> tuple[bool, bool] | None:
        found = numbers(nvml, name, handle, 2)
        return (bool(found[0]), bool(found[1])) if found else None

    errors = tuple(
        one("nvmlDeviceGetTotalEccErrors", before=(UNCORRECTED, since), wide=True) for since in (VOLATILE, AGGREGATE)
    )
    rows = numbers(nvml, "nvmlDeviceGetRemappedRows", handle, 4)
    states = (one("nvmlDeviceGetNvLinkState", before=(link,)) for link in range(MOST_LINKS))
    info = _FabricInfo(version=FABRIC_VERSION)
    # None before driver 535 too, which does not report its health.
    has_fabric = is_known(nvml, "nvmlDeviceGetGpuFabricInfoV", handle, ctypes.byref(info))
    return replace(
        read_load(nvml, handle, read_limits(nvml, handle)),
        ecc=two("nvmlDeviceGetEccMode"),
        ecc_by_default=one("nvmlDeviceGetDefaultEccMode", bool),
        uncorrected=None if None in errors else errors,
        remapped=(rows[0], rows[1]) if rows else None,
        remap_pending=bool(rows[2]) if rows else None,
        remap_failed=bool(rows[3]) if rows else None,
        retirement_pending=one("nvmlDeviceGetRetiredPagesPendingStatus", bool),
        persistence=one("nvmlDeviceGetPersistenceMode", bool),
        compute_mode=one("nvmlDeviceGetComputeMode"),
        mig=two("nvmlDeviceGetMigMode"),
        links=tuple(bool(state) for state in states if state is not None),
        link_errors=_link_errors(nvml, handle),
        virtual=one("nvmlDeviceGetVirtualizationMode", lambda mode: mode == VGPU),
        fabric=Fabric(info.state, info.status, info.healthMask) if has_fabric else None,
    )


def _link_errors(nvml: Any, handle: ctypes.c_void_p) -> dict[str, int]:
    found: dict[str, int] = {}
    for counter, kind in LINK_ERRORS.items():
        for link in range(MOST_LINKS):
            count = numbers(nvml, "nvmlDeviceGetNvLinkErrorCounter", handle, before=(link, counter), wide=True)
            if count:
                found[kind] = found.get(kind, 0) + count[0]
    return found
