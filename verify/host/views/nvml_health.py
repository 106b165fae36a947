"""Health of NVIDIA GPUs according to NVML: errors, links, limits and modes.

nvidia-smi uses the same library, but needs seconds and renames its output in every release.
"""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from verify.host.views.nvml import LIBRARY, UNKNOWN_TO_IT, NvmlError, check_code, gpu, numbers, opened

VOLATILE, AGGREGATE = 0, 1
"""Since the driver was loaded; since the card was made (nvmlEccCounterType_t)."""
UNCORRECTED = 1
SENSOR = 0
"""NVML_TEMPERATURE_GPU: the sensor of the chip."""
MOST_LINKS = 36
"""NVML_NVLINK_MAX_LINKS of the newest nvml.h; cards and drivers reject numbers that they do not have."""
LINK_ERRORS = {0: "replay", 1: "recovery", 2: "CRC of flits", 3: "CRC of data"}
"""nvmlNvLinkErrorCounter_t."""
FABRIC_VERSION = 0x02000024
"""nvmlGpuFabricInfo_v2: the version, and the structure's 36 bytes."""


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
    temperature_c: int | None = None
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


def read_health(library: str = LIBRARY) -> tuple[Health, ...]:
    """Return the cards in NVML's order. Raises NvmlError, also without the library."""
    try:
        with opened(library) as (nvml, handles):
            return tuple(_health(nvml, handle) for handle in handles)
    except OSError as error:
        raise NvmlError(f"{library} cannot be loaded: {error}") from None


def _health(nvml: Any, handle: ctypes.c_void_p) -> Health:
    def one(name: str, **how: Any) -> int | None:
        found = numbers(nvml, name, handle, **how)
        return found[0] if found else None

    def two(name: str) -> tuple[bool, bool] | None:
        found = numbers(nvml, name, handle, 2)
        return (bool(found[0]), bool(found[1])) if found else None

    known = gpu(nvml, handle)
    errors = [
        one("nvmlDeviceGetTotalEccErrors", before=(UNCORRECTED, since), wide=True) for since in (VOLATILE, AGGREGATE)
    ]
    rows = numbers(nvml, "nvmlDeviceGetRemappedRows", handle, 4)
    reasons = one("nvmlDeviceGetCurrentClocksEventReasons", wide=True)
    if reasons is None:  # its name before driver 535
        reasons = one("nvmlDeviceGetCurrentClocksThrottleReasons", wide=True)
    return Health(
        pci=known.pci or "",
        name=known.name or "",
        ecc=two("nvmlDeviceGetEccMode"),
        ecc_by_default=_switch(one("nvmlDeviceGetDefaultEccMode")),
        uncorrected=(errors[0], errors[1]) if errors[0] is not None and errors[1] is not None else None,
        remapped=(rows[0], rows[1]) if rows else None,
        remap_pending=bool(rows[2]) if rows else None,
        remap_failed=bool(rows[3]) if rows else None,
        retirement_pending=_switch(one("nvmlDeviceGetRetiredPagesPendingStatus")),
        clock_reasons=reasons,
        temperature_c=one("nvmlDeviceGetTemperature", before=(SENSOR,)),
        power_w=_watts(one("nvmlDeviceGetPowerUsage")),
        power_limit_w=_watts(one("nvmlDeviceGetPowerManagementLimit")),
        power_default_w=_watts(one("nvmlDeviceGetPowerManagementDefaultLimit")),
        persistence=_switch(one("nvmlDeviceGetPersistenceMode")),
        compute_mode=one("nvmlDeviceGetComputeMode"),
        mig=two("nvmlDeviceGetMigMode"),
        links=_links(nvml, handle),
        link_errors=_link_errors(nvml, handle),
        fabric=_fabric(nvml, handle),
    )


def _switch(value: int | None) -> bool | None:
    return None if value is None else bool(value)


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _links(nvml: Any, handle: ctypes.c_void_p) -> tuple[bool, ...]:
    answers = (numbers(nvml, "nvmlDeviceGetNvLinkState", handle, before=(link,)) for link in range(MOST_LINKS))
    return tuple(bool(answer[0]) for answer in answers if answer)


def _link_errors(nvml: Any, handle: ctypes.c_void_p) -> dict[str, int]:
    found: dict[str, int] = {}
    for counter, kind in LINK_ERRORS.items():
        for link in range(MOST_LINKS):
            count = numbers(nvml, "nvmlDeviceGetNvLinkErrorCounter", handle, before=(link, counter), wide=True)
            if count:
                found[kind] = found.get(kind, 0) + count[0]
    return found


def _fabric(nvml: Any, handle: ctypes.c_void_p) -> Fabric | None:
    """Return the fabric state; None before driver 535 too, which does not report its health."""
    info = _FabricInfo(version=FABRIC_VERSION)
    call = getattr(nvml, "nvmlDeviceGetGpuFabricInfoV", None)
    code = call(handle, ctypes.byref(info)) if call else None
    if code is None or code in UNKNOWN_TO_IT:
        return None
    check_code(nvml, "nvmlDeviceGetGpuFabricInfoV", code)
    return Fabric(info.state, info.status, info.healthMask)
