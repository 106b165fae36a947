"""NVIDIA GPUs as NVML lists them, through ctypes; nvidia-smi uses the same library."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations
from typing import Any

from verify.host.views import Gpu, pci_address

LIBRARY = "libnvidia-ml.so.1"
SUCCESS = 0
P2P_BY_NVLINK, P2P_OK = 2, 0
"""NVML_P2P_CAPS_INDEX_NVLINK of nvmlGpuP2PCapsIndex_t, NVML_P2P_STATUS_OK of nvmlGpuP2PStatus_t."""
UNKNOWN_TO_IT = frozenset({2, 3, 4, 13, 25})
"""NVML_ERROR_INVALID_ARGUMENT, _NOT_SUPPORTED, _NO_PERMISSION, _FUNCTION_NOT_FOUND, _ARGUMENT_VERSION_MISMATCH (nvml.h)."""


class NvmlError(Exception):
    """A call of NVML failed; the message is the library's own."""


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


@contextmanager
def opened(library: str = LIBRARY) -> Iterator[tuple[Any, list[ctypes.c_void_p]]]:
    """Open the library, and yield a handle of each GPU in its order. Raises OSError if it is not installed, and NvmlError."""
    nvml = ctypes.CDLL(library)
    nvml.nvmlErrorString.restype = ctypes.c_char_p
    ask(nvml, "nvmlInit_v2")
    try:
        count = ctypes.c_uint()
        ask(nvml, "nvmlDeviceGetCount_v2", ctypes.byref(count))
        yield nvml, [_handle(nvml, index) for index in range(count.value)]
    finally:
        nvml.nvmlShutdown()


def gpus(library: str = LIBRARY) -> tuple[tuple[Gpu, ...], bool] | None:
    """Return the GPUs in NVML's order, which is the PCI bus's, and whether one of them is split (MIG).

    None if the library is not installed. Raises NvmlError.
    """
    try:
        with opened(library) as (nvml, handles):
            return tuple(gpu(nvml, handle) for handle in handles), any(_split(nvml, handle) for handle in handles)
    except OSError:
        return None


def nvlinked(library: str = LIBRARY) -> tuple[bool, ...]:
    """Return for each ordered pair of GPUs whether NVLinks connect them. Raises NvmlError, also without the library."""
    try:
        with opened(library) as (nvml, handles):
            return tuple(_nvlinked(nvml, one, other) for one, other in permutations(handles, 2))
    except OSError as error:
        raise NvmlError(f"{library} cannot be loaded: {error}") from None


def release(library: str = LIBRARY) -> str | None:
    """Return the release of the loaded driver, as `580.82.07`; None if NVML does not start."""
    version = ctypes.create_string_buffer(96)
    try:
        with opened(library) as (nvml, _):
            ask(nvml, "nvmlSystemGetDriverVersion", version, ctypes.c_uint(96))
    except (OSError, NvmlError):
        return None
    return version.value.decode()


def _handle(nvml: Any, index: int) -> ctypes.c_void_p:
    handle = ctypes.c_void_p()
    ask(nvml, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
    return handle


def gpu(nvml: Any, handle: ctypes.c_void_p) -> Gpu:
    """Return one GPU as NVML reports it. Raises NvmlError."""
    pci, memory = _PciInfo(), _Memory()
    name, uuid = ctypes.create_string_buffer(96), ctypes.create_string_buffer(96)
    ask(nvml, "nvmlDeviceGetPciInfo_v3", handle, ctypes.byref(pci))
    ask(nvml, "nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
    ask(nvml, "nvmlDeviceGetName", handle, name, ctypes.c_uint(96))
    ask(nvml, "nvmlDeviceGetUUID", handle, uuid, ctypes.c_uint(96))
    return Gpu(pci_address(pci.busId.decode()), uuid.value.decode(), name.value.decode(), memory.total)


def _nvlinked(nvml: Any, one: ctypes.c_void_p, other: ctypes.c_void_p) -> bool:
    name, status = "nvmlDeviceGetP2PStatus", ctypes.c_uint()
    call = getattr(nvml, name, None)
    code = call(one, other, ctypes.c_uint(P2P_BY_NVLINK), ctypes.byref(status)) if call else None
    if code is None or code in UNKNOWN_TO_IT:
        return False
    check_code(nvml, name, code)
    return status.value == P2P_OK


def _split(nvml: Any, handle: ctypes.c_void_p) -> bool:
    modes = numbers(nvml, "nvmlDeviceGetMigMode", handle, 2)
    return bool(modes and modes[0])


def numbers(
    nvml: Any, name: str, handle: ctypes.c_void_p, count: int = 1, *, before: tuple[int, ...] = (), wide: bool = False
) -> tuple[int, ...] | None:
    """Call a function that writes `count` unsigned numbers (64 bits if `wide`) after `before` inputs, and return them.

    None if card or driver do not support the call. Raises NvmlError.
    """
    answers = [ctypes.c_ulonglong() if wide else ctypes.c_uint() for _ in range(count)]
    call = getattr(nvml, name, None)
    if call is None:
        return None
    code = call(handle, *map(ctypes.c_uint, before), *map(ctypes.byref, answers))
    if code in UNKNOWN_TO_IT:
        return None
    check_code(nvml, name, code)
    return tuple(answer.value for answer in answers)


def ask(nvml: Any, name: str, *arguments: Any) -> None:
    """Make a call that must succeed. Raises NvmlError."""
    check_code(nvml, name, getattr(nvml, name)(*arguments))


def check_code(nvml: Any, name: str, code: int) -> None:
    """Raise NvmlError with the library's message for any code but success."""
    if code != SUCCESS:
        raise NvmlError(f"{name}: {nvml.nvmlErrorString(code).decode()} ({code})")
