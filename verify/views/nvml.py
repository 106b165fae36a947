"""NVIDIA GPUs as NVML lists them, through ctypes: nvidia-smi asks the same library."""

from __future__ import annotations

import ctypes
from typing import Any

from verify.views import Gpu, pci_address

SUCCESS = 0
NOT_SUPPORTED = 3


class NvmlError(Exception):
    """A call of NVML that did not succeed, with what the library says of it."""


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


def gpus(library: str = "libnvidia-ml.so.1") -> tuple[tuple[Gpu, ...], bool] | None:
    """The GPUs in NVML's order, which is the PCI bus's, and whether one of them is split (MIG).

    Null where the library is not installed. Raises NvmlError when it answers with an error.
    """
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return None
    nvml.nvmlErrorString.restype = ctypes.c_char_p
    _ask(nvml, "nvmlInit_v2")
    try:
        count = ctypes.c_uint()
        _ask(nvml, "nvmlDeviceGetCount_v2", ctypes.byref(count))
        handles = [_handle(nvml, index) for index in range(count.value)]
        return tuple(_gpu(nvml, handle) for handle in handles), any(_split(nvml, handle) for handle in handles)
    finally:
        nvml.nvmlShutdown()


def _handle(nvml: Any, index: int) -> ctypes.c_void_p:
    handle = ctypes.c_void_p()
    _ask(nvml, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
    return handle


def _gpu(nvml: Any, handle: ctypes.c_void_p) -> Gpu:
    pci, memory = _PciInfo(), _Memory()
    name, uuid = ctypes.create_string_buffer(96), ctypes.create_string_buffer(96)
    _ask(nvml, "nvmlDeviceGetPciInfo_v3", handle, ctypes.byref(pci))
    _ask(nvml, "nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
    _ask(nvml, "nvmlDeviceGetName", handle, name, ctypes.c_uint(96))
    _ask(nvml, "nvmlDeviceGetUUID", handle, uuid, ctypes.c_uint(96))
    return Gpu(pci_address(pci.busId.decode()), uuid.value.decode(), name.value.decode(), memory.total)


def _split(nvml: Any, handle: ctypes.c_void_p) -> bool:
    current, pending = ctypes.c_uint(), ctypes.c_uint()
    code = nvml.nvmlDeviceGetMigMode(handle, ctypes.byref(current), ctypes.byref(pending))
    if code == NOT_SUPPORTED:
        return False
    _judge(nvml, "nvmlDeviceGetMigMode", code)
    return bool(current.value)


def _ask(nvml: Any, name: str, *arguments: Any) -> None:
    _judge(nvml, name, getattr(nvml, name)(*arguments))


def _judge(nvml: Any, name: str, code: int) -> None:
    if code != SUCCESS:
        raise NvmlError(f"{name}: {nvml.nvmlErrorString(code).decode()} ({code})")
