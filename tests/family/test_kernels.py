"""The kernels that the plan expects for experts and for weights of 4 and 8 bits."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.stack import FlashInferPlan
from provision.phases.plan.family.choices import kernel_choices, kernels
from provision.phases.plan.fit.serving_request import ServingRequest
from provision.phases.plan.fit.shape import shape_of
from provision.phases.plan.fit.weights import counted
from provision.phases.serve.options import options
from tests.family.models import LLAMA, QWEN3_MOE, of
from tests.verify.conftest import vllm_python

__all__ = ["vllm_python"]

NVFP4 = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}
GROUP = {"weights": {"type": "float", "num_bits": 4, "group_size": 16}}
INPUTS = {"input_activations": {"type": "float", "num_bits": 4}}
GPT_OSS = of(
    "GptOssForCausalLM",
    "gpt_oss",
    num_local_experts=8,
    num_experts_per_tok=2,
    quantization_config={"quant_method": "mxfp4"},
)


WIDE_EXPERTS = QWEN3_MOE | {"moe_intermediate_size": 256}


def fp8(**more: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": "fp8", **more}}


EIGHT_BITS = fp8(activation_scheme="dynamic")


def in_groups(group: dict[str, Any]) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}}


def names(
    config: dict[str, Any],
    capability: str = "12.0",
    version: str = "0.33.0",
    *,
    tensor: int = 1,
    flashinfer: bool = True,
    compiled: bool = True,
    plain: bool = True,
    arguments: tuple[str, ...] = (),
) -> list[str | None]:
    shape = shape_of(config, counted({"BF16": 1 << 20}, "a test"))
    kernels_of = {(True, True): "compiled", (True, False): "prebuilt", (False, False): "off"}
    kind = kernels_of.get((flashinfer, compiled))
    plan = FlashInferPlan.model_validate({"version": "0.6.0", "kernels": kind}) if kind else None
    request = ServingRequest(arguments=arguments, adapters=not plain)
    found = kernel_choices(shape, request, version, capability, tensor=tensor, flashinfer=plan)
    return [choice.value for choice in found]


LINEAR, WITHOUT = "FlashInferCutlassNvFp4LinearKernel", "CutlassNvFp4LinearKernel"


@pytest.mark.parametrize(
    ("config", "with_flashinfer", "without"),
    [
        (QWEN3_MOE | NVFP4, ["FLASHINFER_CUTLASS", LINEAR], ["VLLM_CUTLASS", WITHOUT]),
        (QWEN3_MOE, ["FlashInfer CUTLASS"], ["TRITON"]),
        (LLAMA | NVFP4, [LINEAR], [WITHOUT]),
        (LLAMA | in_groups(GROUP | INPUTS), [LINEAR], [WITHOUT]),
        (LLAMA | in_groups(GROUP), [], []),
        (GPT_OSS, ["MARLIN"], ["MARLIN"]),
        (LLAMA, [], []),
        (QWEN3_MOE | EIGHT_BITS, ["TRITON"], ["TRITON"]),
        (QWEN3_MOE | fp8(activation_scheme="static"), ["FLASHINFER_CUTLASS"], ["TRITON"]),
        (WIDE_EXPERTS | fp8(weight_block_size=[128, 128]), ["DEEPGEMM"], ["DEEPGEMM"]),
        (WIDE_EXPERTS | fp8(weight_block_size=[64, 64]), [], []),
        (LLAMA | EIGHT_BITS, [], []),
    ],
)
@pytest.mark.parametrize("capability", ["12.0", "12.1"])
def test_kernels_follow_the_weights_and_flashinfer(
    config: dict[str, Any], with_flashinfer: list[str], without: list[str], capability: str
) -> None:
    assert names(config, capability) == with_flashinfer
    assert names(config, capability, flashinfer=False) == without


def test_nothing_is_said_of_what_was_not_read() -> None:
    assert names(QWEN3_MOE | NVFP4, "10.0") == []
    assert names(QWEN3_MOE | NVFP4, "") == []
    assert names(QWEN3_MOE | NVFP4, version="0.31.0") == []
    assert names(QWEN3_MOE, plain=False) == []
    assert names(QWEN3_MOE | EIGHT_BITS, plain=False) == []


def test_deep_gemm_needs_whole_blocks_and_a_model_that_vllm_takes_it_for() -> None:
    blocks = fp8(weight_block_size=[128, 128])
    assert names(WIDE_EXPERTS | blocks, tensor=2) == ["DEEPGEMM"]
    assert names(WIDE_EXPERTS | blocks, tensor=4) == []
    assert names(WIDE_EXPERTS | blocks, compiled=False) == ["TRITON"]
    assert names(WIDE_EXPERTS | blocks | {"model_type": "qwen3_5_moe_text"}) == []


def test_a_kernel_of_the_users_arguments_is_not_expected_otherwise() -> None:
    assert names(QWEN3_MOE | NVFP4, arguments=("--moe-backend", "marlin")) == [LINEAR]
    assert names(QWEN3_MOE | NVFP4, arguments=("--linear-backend=marlin",)) == ["FLASHINFER_CUTLASS"]
    assert names(QWEN3_MOE | NVFP4, arguments=("--kernel-config", "{}")) == []


CASES = [
    (capability, *kind) for capability in ("12.0", "12.1") for kind in ((True, True), (True, False), (False, False))
]


@pytest.fixture(scope="module")
def selections(vllm_python: Path) -> dict[tuple[str, bool, bool], dict[str, str]]:
    """What vLLM itself selects in each case, by one process: importing it takes many seconds."""
    without_nvcc = options()["flashinfer"]["without_nvcc"]
    cases = [
        {"capability": capability, "flashinfer": flashinfer, "variables": {} if compiled else without_nvcc}
        for capability, flashinfer, compiled in CASES
    ]
    program = Path(__file__).with_name("kernel_selection.py")
    command = [str(vllm_python), str(program), json.dumps(cases)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(zip(CASES, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize(("capability", "flashinfer", "compiled"), CASES)
def test_vllm_itself_takes_these_kernels(
    selections: dict[tuple[str, bool, bool], dict[str, str]], capability: str, flashinfer: bool, compiled: bool
) -> None:
    expected = {
        f"{row.weights} {row.layers}": row.name
        for row in kernels()
        if row.flashinfer in {None, flashinfer} and row.compiled in {None, compiled}
    }
    assert selections[capability, flashinfer, compiled] == expected
