"""A library that answers like NVML, compiled from the part of nvml.h that is called."""

import shutil
import subprocess
from pathlib import Path

import pytest

UUID = "GPU-0b6e1f58-4c0f-4d0c-9b1e-7a43c1d2aa01"

NVML = """
#include <string.h>
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char address[32]; } pci_t;
typedef struct { unsigned long long total, free, used; } memory_t;
const char *nvmlErrorString(int code) { return code == 18 ? "Driver/library version mismatch" : "Unknown"; }
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = COUNT; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = (char *)0x7f0000000000 + index; return 0; }
int nvmlDeviceGetPciInfo_v3(void *h, pci_t *p) { strcpy(p->address, "00000000:1B:00.0"); return h ? 0 : 2; }
int nvmlDeviceGetMemoryInfo(void *h, memory_t *m) { if (!MEMORY) m->total = 85899345920ULL; return MEMORY; }
int nvmlDeviceGetName(void *h, char *name, unsigned size) { strcpy(name, "NVIDIA H100 80GB HBM3"); return 0; }
int nvmlDeviceGetUUID(void *h, char *uuid, unsigned size) { strcpy(uuid, UUID); return 0; }
int nvmlDeviceGetMigMode(void *h, unsigned *now, unsigned *next) { *now = 1; *next = 0; return MIG; }
"""
"""The part of nvml.h that is called, with the library's own structures and a 64-bit handle."""

SENSORS = """
int nvmlDeviceGetClockInfo(void *h, unsigned kind, unsigned *mhz) { *mhz = 1410; return kind == 1 ? 0 : 2; }
int nvmlDeviceGetMaxClockInfo(void *h, unsigned kind, unsigned *mhz) { *mhz = 1980; return kind == 1 ? 0 : 2; }
int nvmlDeviceGetTemperature(void *h, unsigned sensor, unsigned *celsius) { *celsius = 61; return sensor ? 2 : 0; }
int nvmlDeviceGetTemperatureThreshold(void *h, unsigned kind, unsigned *celsius) {
    *celsius = kind == 3 ? 88 : 97; return kind == 2 || kind == 3 ? 0 : 2; }
typedef struct { unsigned field, scope; long long at, latency; unsigned type, code; unsigned long long value; } field_t;
int nvmlDeviceGetFieldValues(void *h, int count, field_t *f) {
    f->code = count == 1 && f->field == 82 ? 0 : 3; f->type = 1; f->value = 74; return 0; }
int nvmlDeviceGetPowerUsage(void *h, unsigned *mw) { *mw = 412500; return 0; }
"""
"""Clocks, temperatures with their limits, and power."""


def library(folder: Path, *, init: int = 0, mig: int = 3, memory: int = 0, cards: int = 1, more: str = "") -> str:
    """The library of one H100, or of several at one address; `init`, `mig` and `memory` are what calls return, `more` is the source of further calls."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: the calls of NVML are NOT TESTED")
    (folder / "nvml.c").write_text(NVML + more)
    made = folder / "libnvidia-ml.so.1"
    defines = [f"-DINIT={init}", f"-DMIG={mig}", f"-DMEMORY={memory}", f"-DCOUNT={cards}", f'-DUUID="{UUID}"']
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, *defines, folder / "nvml.c"], check=True)
    return str(made)
