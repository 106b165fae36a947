"""The key of a start cache."""

from typing import Any

import pytest

from provision.core.models.facts import Cpu, HostFacts, Nvidia
from provision.core.models.settings import Settings
from provision.core.models.stack import Stack
from provision.phases.serve.command_line import ServeCommand, serve_command
from provision.phases.serve.model import BUILTIN, ServedModel
from provision.phases.serve.start_cache import folder_of
from tests.serve.conftest import card, facts, stack

PREFIX = "/opt/firstlight"
MODEL = ServedModel(kind="files", name="qwen3-8b-0123", attention_heads=32)
HOST = facts(card(0)).model_copy(update={"cpu": Cpu(model="EPYC", flags=("avx2", "fma", "ibrs"), logical=8)})


def command(
    host: HostFacts = HOST, *, model: ServedModel = MODEL, prefix: str = PREFIX, content: str = "e1", **settings: Any
) -> ServeCommand:
    cuda = stack("0.32.0", "cu130", "FLASH_ATTN")
    return serve_command(cuda, Settings(**settings), host, prefix=prefix, model=model, content=content)


def with_cpu(**values: Any) -> HostFacts:
    return HOST.model_copy(update={"cpu": HOST.cpu.model_copy(update=values)})


def with_driver(version: str) -> HostFacts:
    nvidia = HOST.nvidia or Nvidia()
    return HOST.model_copy(update={"nvidia": nvidia.model_copy(update={"driver_version": version})})


def test_equal_hosts_have_one_key_whatever_their_addresses_are() -> None:
    other = HOST.model_copy(update={"host": "gpu-9"})
    asked = command(
        other, bind="10.0.0.9", expose=True, port=9000, served_model_name="m", api_key=True, memory_share=0.5
    )
    assert asked.start_cache == command().start_cache
    # A new kernel shows other flags of the same processor.
    assert command(with_cpu(flags=("fma", "avx2", "stibp"))).start_cache == command().start_cache


@pytest.mark.parametrize(
    "other",
    [
        command(with_driver("1.2.3")),
        command(facts(card(0, capability="10.0")).model_copy(update={"cpu": HOST.cpu})),
        command(facts(card(0).model_copy(update={"name": "NVIDIA X"})).model_copy(update={"cpu": HOST.cpu})),
        command(with_cpu(flags=("avx2",))),
        command(with_cpu(model="Xeon")),
        command(with_cpu(logical=16)),
        command(content="e2"),
        command(prefix="/srv/firstlight"),
        command(model=MODEL.model_copy(update={"name": "qwen3-8b-4567"})),
        command(max_model_len=512),
        command(vllm_args=("-O3",)),
        command(env={"VLLM_X": "1"}),
        command(dtype="float16"),
    ],
    ids=lambda one: one.start_cache,
)
def test_whatever_changes_compiled_code_changes_the_key(other: ServeCommand) -> None:
    assert other.start_cache not in (None, command().start_cache)


def test_all_that_is_compiled_is_in_the_folder_of_the_key(cuda_stack: Stack) -> None:
    made = command()
    assert made.start_cache
    folder = folder_of(PREFIX, made.start_cache)
    names = (
        "VLLM_CACHE_ROOT",
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
        "FLASHINFER_WORKSPACE_BASE",
        "CUDA_CACHE_PATH",
    )
    assert all(f"{made.environment[name]}/".startswith(f"{folder}/") for name in names)
    assert serve_command(cuda_stack, Settings(), facts(card(0)), prefix=PREFIX, model=BUILTIN).start_cache


def test_a_host_that_compiles_nothing_has_nothing_to_share() -> None:
    cpu, host = stack("0.32.0", "cpu", "CPU_ATTN"), facts()
    keys = {
        args: serve_command(cpu, Settings(vllm_args=args), host, prefix=PREFIX, model=MODEL).start_cache
        for args in ((), ("--enforce-eager",))
    }
    assert keys[()] is not None
    assert keys[("--enforce-eager",)] is None
    assert serve_command(cpu, Settings(), host, prefix=PREFIX, model=BUILTIN).start_cache is None
