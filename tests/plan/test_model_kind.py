"""Which attention back end a model's own kind allows: compressed vectors (MLA), an index, sinks, odd heads, whole images, the type of its cache."""

from typing import Any

import pytest

from provision.core.models.stack import Resolution
from tests.fit.models import DEEPSEEK_V3, GPT_OSS_20B, LLAMA_8B, shape
from tests.plan.planned import HOST, resolve, stack_of, texts_of

SMALL = {"BF16": 10_000_000_000}
"""Bytes of weights that fit everywhere: these tests vary kinds, not sizes."""
ON_CPU = HOST.replace("gpu={} driver=580.65.06", "gpu=none")
LATENT = DEEPSEEK_V3 | {"quantization_config": None}
SPARSE = LATENT | {"architectures": ["DeepseekV32ForCausalLM"], "index_topk": 2048}
ON_AMD = HOST.replace("gpu={} driver=580.65.06", "gpu=MI300Xx1 rocm=7.2")
GEMMA4 = LLAMA_8B | {"architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4", "head_dim": 256}
SOFT_CAPPED = LLAMA_8B | {"head_dim": 256, "attn_logit_softcapping": 50.0}
EIGHT_BITS = {"num_bits": 8, "type": "float", "strategy": "tensor"}


def served(line: str, config: dict[str, Any], **settings: Any) -> Resolution:
    """Return what is planned for a host that serves a model with this config.json."""
    return resolve(line, {"org/model": shape(config, SMALL)}, **settings)


def chosen(resolution: Resolution) -> tuple[str, int | None, str]:
    stack = stack_of(resolution)
    return stack.attention.backend, stack.attention.generation, stack.flash_attn.provider


@pytest.mark.parametrize(
    ("line", "config", "expected"),
    [
        (HOST.format("H200x8"), LATENT, ("FLASH_ATTN_MLA", 3, "bundled")),
        (HOST.format("B200x8"), LATENT, ("CUTLASS_MLA", None, "none")),
        (HOST.format("A100x8"), LATENT, ("TRITON_MLA", None, "none")),
        (HOST.format("RTX5090x4"), LATENT, ("TRITON_MLA", None, "none")),
        (ON_CPU, LATENT, ("CPU_MLA", None, "none")),
        (HOST.format("H200x8"), SPARSE, ("FLASHMLA_SPARSE", None, "none")),
        (HOST.format("H100x1"), GPT_OSS_20B, ("FLASH_ATTN", 3, "bundled")),
        (HOST.format("B200x1"), GPT_OSS_20B, ("FLASH_ATTN", 4, "bundled")),
        (HOST.format("B200x1"), SOFT_CAPPED, ("FLASH_ATTN", None, "bundled")),
        (HOST.format("H100x1"), SOFT_CAPPED, ("FLASH_ATTN", 3, "bundled")),
        (HOST.format("B200x1"), LLAMA_8B | {"head_dim": 192}, ("FLASH_ATTN", None, "bundled")),
        (HOST.format("H100x1"), LLAMA_8B | {"alibi": True}, ("FLASH_ATTN", None, "bundled")),
        (HOST.format("B200x1"), LLAMA_8B | {"model_type": "bloom"}, ("FLASH_ATTN", None, "bundled")),
        (HOST.format("A100x1"), LLAMA_8B | {"alibi": True}, ("FLASH_ATTN", 2, "bundled")),
        (HOST.format("A100x1"), GPT_OSS_20B, ("TRITON_ATTN", None, "none")),
        (HOST.format("H100x1"), LLAMA_8B, ("FLASH_ATTN", 3, "bundled")),
        (HOST.format("H100x1"), LLAMA_8B | {"head_dim": 100}, ("TRITON_ATTN", None, "none")),
        (HOST.format("H100x1"), LLAMA_8B | {"head_dim": 512}, ("TRITON_ATTN", None, "none")),
        (HOST.format("A100x1"), GEMMA4 | {"global_head_dim": 512}, ("TRITON_ATTN", None, "none")),
        (ON_AMD, LLAMA_8B, ("ROCM_ATTN", None, "none")),
        (ON_AMD, LLAMA_8B | {"head_dim": 112}, ("TRITON_ATTN", None, "none")),
        (ON_AMD, GPT_OSS_20B, ("TRITON_ATTN", None, "none")),
    ],
)
def test_the_kind_of_the_model_decides_the_back_end(
    line: str, config: dict[str, Any], expected: tuple[str, int | None, str]
) -> None:
    assert chosen(served(line, config)) == expected


@pytest.mark.parametrize("line", [HOST.format("A100x1"), HOST.format("H100x1"), HOST.format("B200x1"), ON_AMD])
@pytest.mark.parametrize(
    "config",
    [
        LLAMA_8B | {"model_type": "gemma3"},
        LLAMA_8B | {"model_type": "new", "is_mm_prefix_lm": True},
        GEMMA4 | {"use_bidirectional_attention": "vision"},
    ],
    ids=["by-type", "by-key", "gemma4"],
)
def test_models_whose_images_see_all_of_themselves_get_the_back_end_that_serves_them(
    line: str, config: dict[str, Any]
) -> None:
    assert chosen(served(line, config))[0] == "TRITON_ATTN"
    refused = served(line, config, attention="ROCM_ATTN" if line is ON_AMD else "FLASH_ATTN")
    assert any("does not support images whose tokens see all of the image" in reason.text for reason in refused.reasons)


@pytest.mark.parametrize(
    ("card", "config", "cache", "backend"),
    [
        ("A100x1", LLAMA_8B, "fp8", "FLASHINFER"),
        ("A100x1", LLAMA_8B, "bfloat16", "FLASH_ATTN"),
        ("RTX4090x1", LLAMA_8B, "fp8", "TRITON_ATTN"),
        ("RTX5090x1", LLAMA_8B, "fp8_e4m3", "TRITON_ATTN"),
        ("H100x1", LLAMA_8B, "fp8", "FLASH_ATTN"),
        ("H100x1", LLAMA_8B, "fp8_e5m2", "TRITON_ATTN"),
        ("B200x1", LLAMA_8B, "fp8", "FLASH_ATTN"),
        ("B200x1", LLAMA_8B | {"head_dim": 256}, "fp8", "TRITON_ATTN"),
        ("B200x1", LLAMA_8B, "nvfp4", "FLASHINFER"),
        ("H200x8", LATENT, "fp8", "FLASHMLA"),
        ("RTX5090x4", LATENT, "fp8", "TRITON_MLA"),
    ],
)
def test_the_back_end_supports_the_type_of_the_cache(
    card: str, config: dict[str, Any], cache: str, backend: str
) -> None:
    found = served(HOST.format(card), config, vllm_args=["--kv-cache-dtype", cache])
    assert chosen(found)[0] == backend


@pytest.mark.parametrize(
    ("quantized", "arguments", "backend"),
    [
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": EIGHT_BITS}, [], "TRITON_ATTN"),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, [], "TRITON_ATTN"),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": None}, [], "FLASH_ATTN"),
        (
            {"quant_method": "compressed-tensors", "kv_cache_scheme": EIGHT_BITS},
            ["--kv-cache-dtype=bfloat16"],
            "FLASH_ATTN",
        ),
    ],
)
def test_weights_may_come_with_a_type_of_the_cache(
    quantized: dict[str, Any], arguments: list[str], backend: str
) -> None:
    config = LLAMA_8B | {"quantization_config": quantized}
    assert chosen(served(HOST.format("RTX4090x1"), config, vllm_args=arguments))[0] == backend


def test_the_built_in_model_gets_a_back_end_for_a_requested_cache_too() -> None:
    found = resolve(HOST.format("RTX4090x1"), vllm_args=["--kv-cache-dtype", "fp8"])
    assert chosen(found)[0] == "TRITON_ATTN"


@pytest.mark.parametrize(
    ("card", "config", "message"),
    [
        ("A100x1", GPT_OSS_20B, "FLASH_ATTN does not support the model's attention sinks on A100"),
        ("H100x1", LLAMA_8B | {"head_dim": 100}, "FLASH_ATTN does not support heads of size 100"),
        ("A100x8", LATENT, "FLASH_ATTN_MLA runs on compute capability 9.x, A100 has 8.0"),
    ],
)
def test_the_plan_names_why_flash_kernels_do_not_serve(card: str, config: dict[str, Any], message: str) -> None:
    found = served(HOST.format(card), config)
    assert any(message in text for text in texts_of(found, "attention"))
    refused = served(HOST.format(card), config, attention="flash")
    assert refused.stack is None
    assert any(message in reason.text for reason in refused.reasons)


def test_flash_attn_4_is_left_out_for_models_that_vllm_cannot_load_beside_it() -> None:
    omni = LLAMA_8B | {"architectures": ["Qwen2_5OmniForConditionalGeneration"]}
    found = served(HOST.format("H100x1"), omni)
    assert stack_of(found).flash_attn.package is None
    text = "vLLM cannot load Qwen2_5OmniForConditionalGeneration beside flash-attn-4 4.0.0b36"
    assert any(text in reason.text for reason in found.reasons)
    assert stack_of(served(HOST.format("H100x1"), LLAMA_8B)).flash_attn.package


def test_requested_flash_attention_uses_the_back_end_for_the_kind_of_the_model() -> None:
    found = served(HOST.format("H200x8"), LATENT, attention="flash")
    assert chosen(found) == ("FLASH_ATTN_MLA", 3, "bundled")
    refused = served(HOST.format("H200x8"), LATENT, attention="FLASH_ATTN")
    assert refused.stack is None
    assert "models that keep one compressed vector" in refused.reasons[0].text
    assert refused.nearest
    assert refused.nearest.policy == {"attention": "auto"}


def test_prompts_of_a_compressed_model_run_flash_kernels() -> None:
    """So the driver must support them, whatever back end decodes."""
    old = HOST.format("B200x8").replace("580.65.06", "570.172.08")
    found = served(old, LATENT)
    assert any("CuTe DSL compiles FlashAttention 4" in reason.text for reason in found.reasons)


def test_the_spelling_of_a_back_end_follows_the_release() -> None:
    attention = stack_of(served(HOST.format("H200x8"), LATENT, vllm="==0.11.0")).attention
    assert (attention.backend, attention.ask) == ("FLASH_ATTN_MLA", "environment")
    assert served(ON_CPU, LATENT, vllm="==0.27.1").stack is None
