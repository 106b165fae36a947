"""Stacks and hosts as the phases before `serve` return them."""

from pathlib import Path
from typing import Any

import pytest

from provision.core.models.facts import GpuSlice, HostFacts, Memory, Nvidia, NvidiaGpu
from provision.core.models.stack import AttentionPlan, FlashAttnPlan, Interpreter, Stack, TorchBuild, VllmBuild
from provision.phases.serve.onhost.ready.service import ReadinessRequest

GIB = 2**30


def stack(
    version: str = "0.32.0", variant: str = "cpu", backend: str = "CPU_ATTN", flag: str | None = None, **more: Any
) -> Stack:
    return Stack(
        vllm=VllmBuild(version=version, variant=variant),
        torch=TorchBuild(version="2.13.0", variant=variant),
        flash_attn=FlashAttnPlan(provider="none" if variant == "cpu" else "bundled"),
        attention=AttentionPlan(backend=backend, flag=flag or backend, **more),
        python="3.12",
        interpreter=Interpreter(version="3.12", origin="managed"),
        platform="x86_64-manylinux_2_36",
    )


SLICES = tuple(
    GpuSlice(index=index, profile="3g.40gb", uuid=f"MIG-{uuid}", memory_total=40192 << 20)
    for index, uuid in enumerate(("5d0e7c14-8a3b-5f62-91c7-e4b6d2083fa5", "c2974b6f-01de-5a83-b75c-3f9e68a1d047"))
)


def card(
    index: int,
    name: str = "NVIDIA H100 80GB HBM3",
    capability: str = "9.0",
    memory: int = 80 * GIB,
    slices: tuple[GpuSlice, ...] = (),
) -> NvidiaGpu:
    return NvidiaGpu(index=index, name=name, compute_capability=capability, memory_total=memory, slices=slices)


def cards(count: int) -> tuple[NvidiaGpu, ...]:
    return tuple(card(index) for index in range(count))


def facts(*cards: NvidiaGpu, memory: Memory | None = None) -> HostFacts:
    return HostFacts(
        host="gpu-1",
        probed_at="2026-11-20T08:00:00.000Z",
        memory=memory or Memory(total=64 * GIB),
        nvidia=Nvidia(driver_version="580.95.05", gpus=cards) if cards else None,
    )


def readiness(prefix: Path, **more: Any) -> ReadinessRequest:
    """Return what a run asks the proof of the service in this folder."""
    given: dict[str, Any] = {
        "prefix": str(prefix),
        "supervisor": "systemd",
        "unit": "firstlight-vllm.service",
        "host": "127.0.0.1",
        "port": 8000,
        "served_name": "m",
        "asked": "CPU_ATTN",
        "processes": 1,
        "model_folder": str(prefix / "models/builtin-1"),
        "slice_s": 1.0,
    }
    return ReadinessRequest(**(given | more))


@pytest.fixture
def cuda_stack() -> Stack:
    return stack("0.26.0", "cu130", "FLASH_ATTN", generation=3)
