"""Minimal Stacks: tiny `torch` and `vllm` wheels on a local index."""

import platform
import sys
from pathlib import Path
from typing import Any

from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings
from provision.core.models.stack import (
    AttentionPlan,
    Candidate,
    FlashAttnPlan,
    Interpreter,
    Resolution,
    Stack,
    TorchBuild,
    VllmBuild,
)
from provision.core.models.staged import Staged
from provision.phases.stage import stage
from provision.phases.stage.wheelhouse import Store

PYTHON = "{}.{}".format(*sys.version_info[:2])
PLATFORM = f"{platform.machine()}-manylinux_2_28"
TAG = f"cp{PYTHON.replace('.', '')}-cp{PYTHON.replace('.', '')}-manylinux_2_28_{platform.machine()}"
FACTS = HostFacts(host="gpu-1", probed_at="2026-01-01T00:00:00Z")


def make_stack(vllm_index: str | None, torch_index: str | None, *, distribution: str = "vllm") -> Stack:
    return Stack(
        vllm=VllmBuild(
            version="0.9.1",
            variant="cpu",
            provider="official" if distribution == "vllm" else "community",
            distribution=distribution,
            index=vllm_index,
        ),
        torch=TorchBuild(version="2.7.0", variant="cpu", index=torch_index),
        flash_attn=FlashAttnPlan(provider="none"),
        attention=AttentionPlan(backend="CPU_ATTN"),
        python=PYTHON,
        interpreter=Interpreter(version=PYTHON, origin="host", path="/usr/bin/python3"),
        platform=PLATFORM,
    )


def resolve_to(*stacks: Stack) -> Resolution:
    candidates = tuple(
        Candidate(id=f"candidate-{rank}", rank=rank, accepted=True, stack=stack) for rank, stack in enumerate(stacks, 1)
    )
    return Resolution(hosts=("gpu-1", "gpu-2"), stack=stacks[0] if stacks else None, candidates=candidates)


def stage_best(
    store: Store, *stacks: Stack, settings: Settings | None = None, facts: HostFacts = FACTS, **options: Any
) -> Staged:
    """Stage the first of these candidates that can be locked, for two hosts."""
    return stage(resolve_to(*stacks), settings or Settings(), facts, store=store, **options)


def locked(staged: Staged) -> list[str]:
    return [line.split(" ")[0] for line in Path(staged.lock).read_text().splitlines()]
