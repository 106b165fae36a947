from typing import Any

import pytest

from provision.core.models.settings import Settings
from provision.phases.plan.fit.shape import shape_for
from provision.phases.plan.fit.split import stages, tensor_sizes, weight_bytes, why_not
from tests.fit.models import GPT_OSS_20B, LLAMA_8B_NUMBERS, deepseek_v3, llama_8b, llama_70b, shape


def test_sizes_that_vllm_accepts() -> None:
    # 8 key heads on 16 devices: each is replicated twice; MLA has none to divide
    assert tensor_sizes(llama_8b(), 16) == tensor_sizes(deepseek_v3(), 16) == (1, 2, 4, 8, 16)
    # 24 heads, 6 key heads, a padded vocabulary of 64 x 501
    assert tensor_sizes(llama_8b(num_attention_heads=24, num_key_value_heads=6, vocab_size=32001), 8) == (1, 2)
    assert tensor_sizes(shape(GPT_OSS_20B, {"U8": 1}), 16) == (1, 2, 4, 8, 16)


@pytest.mark.parametrize(
    ("changed", "tensor", "text"),
    [
        ({}, 3, "32 attention heads cannot be divided by 3"),
        (
            {"vocab_size": 32001, "num_attention_heads": 30, "num_key_value_heads": 10},
            5,
            "a vocabulary of 32064 cannot be divided by 5",
        ),
        ({"num_key_value_heads": 6, "num_attention_heads": 24}, 4, "6 key-value heads cannot be divided by 4"),
    ],
)
def test_an_indivisible_size_is_named(changed: dict[str, int], tensor: int, text: str) -> None:
    assert why_not(llama_8b(**changed), tensor) == text


def test_blocks_of_8_bit_floats_are_not_divided_outside_the_experts() -> None:
    blocks = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    assert why_not(llama_8b(intermediate_size=9728), 8) is None
    dense = llama_8b(intermediate_size=9728, **blocks)
    assert why_not(dense, 8) == "an inner width of 9728 in blocks of 128 cannot be divided by 8"
    assert tensor_sizes(dense, 8) == (1, 2, 4)
    experts = {"num_experts": 8, "moe_intermediate_size": 768, "intermediate_size": 6144, **blocks}
    assert why_not(llama_8b(**experts), 8) is None
    assert why_not(llama_8b(**experts, shared_expert_intermediate_size=512), 8)
    assert why_not(llama_8b(num_local_experts=8, intermediate_size=1536, **blocks), 8) is None


GLM_V = {"architectures": ["Glm4vMoeForConditionalGeneration"], "vision_config": {"num_heads": 12}}
QWEN_VL = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "vision_config": {"num_heads": 16, "intermediate_size": 3420},
}
VOXTRAL = {"architectures": ["VoxtralForConditionalGeneration"], "audio_config": {"num_attention_heads": 20}}


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (GLM_V, "12 attention heads of the encoder cannot be divided by 8"),
        (QWEN_VL, "an inner width of 3420 of the encoder cannot be divided by 8"),
        (VOXTRAL, "20 attention heads of the encoder cannot be divided by 8"),
        (GLM_V | {"architectures": ["Qwen3VLForConditionalGeneration"]}, None),
    ],
)
def test_an_encoder_is_divided_too_where_its_class_does_so(config: dict[str, Any], text: str | None) -> None:
    found = llama_8b(**config)
    assert why_not(found, 8) == text
    assert tensor_sizes(found, 8) == ((1, 2, 4) if text else (1, 2, 4, 8))
    whole = Settings(model="a/b", vllm_args=("--mm-encoder-tp-mode", "data"))
    kept = shape_for(whole, {"a/b": found})
    assert kept
    assert why_not(kept, 8) == (text if "audio_config" in config else None)


GROUPED = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}


@pytest.mark.parametrize(
    ("quantized", "expected"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, (1, 2, 4)),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}, (1, 2, 4)),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": GROUPED}}}, (1, 2, 4)),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True}, (1, 2, 4, 8)),
        ({"quant_method": "awq", "bits": 4, "group_size": -1}, (1, 2, 4, 8)),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, (1, 2, 4, 8)),
    ],
)
def test_rows_that_share_a_scale_are_not_divided(quantized: dict[str, object], expected: tuple[int, ...]) -> None:
    # an inner width of 108 groups, which eight parts would split in halves
    changed = {"intermediate_size": 13824, "quantization_config": quantized}
    assert tensor_sizes(llama_8b(**changed), 8) == expected
    # which layers beside the experts have groups is not known
    assert tensor_sizes(llama_8b(**changed, num_experts=8, moe_intermediate_size=1024), 8) == (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("layers", "parts", "expected"),
    [(32, 4, (8, 8, 8, 8)), (61, 2, (31, 30)), (10, 4, (2, 3, 3, 2)), (11, 4, (3, 3, 3, 2))],
)
def test_layers_of_pipeline_stages(layers: int, parts: int, expected: tuple[int, ...]) -> None:
    assert stages(layers, parts) == expected


def test_the_weights_of_one_device_are_computed() -> None:
    whole = 2 * LLAMA_8B_NUMBERS
    assert weight_bytes(llama_8b(), 1, 1, 2) == pytest.approx(whole, abs=16)
    assert weight_bytes(llama_8b(), 4, 1, 2) == pytest.approx(whole / 4, abs=16)
    # 16 parts of 8 key heads: each part holds one whole head where its share is half of one
    replicated = 32 * 2 * 4096 * 128 * (1 - 8 / 16) * 2
    assert weight_bytes(llama_8b(), 16, 1, 2) == pytest.approx(whole / 16 + replicated, abs=16)


def test_experts_are_split_over_replicas_and_the_rest_is_not() -> None:
    model = deepseek_v3()
    alone = weight_bytes(model, 1, 1, 2)
    spread = weight_bytes(model, 1, 1, 2, data=8)
    assert 90 << 30 < spread < 140 << 30 < 600 << 30 < alone
    assert weight_bytes(llama_8b(), 1, 1, 2, data=8) == weight_bytes(llama_8b(), 1, 1, 2)


def test_weights_are_stored_in_the_format_of_the_computation() -> None:
    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64}
    stored = shape(config | {"num_attention_heads": 4, "num_hidden_layers": 2}, {"F32": 4000})
    assert weight_bytes(stored, 1, 1, 2) == 2000
    assert weight_bytes(stored, 1, 1, 4) == 4000


def test_weights_of_a_pipeline_stage() -> None:
    model = llama_70b()
    table = 128256 * 8192 * 2
    layers = model.weights.total - 2 * table
    assert weight_bytes(model, 1, 4, 2) == pytest.approx(layers / 4 + table, abs=16)


def test_mla_stores_some_projections_twice() -> None:
    model = deepseek_v3()
    absorbed = 61 * 512 * 128 * (128 + 128) * 2
    assert weight_bytes(model, 1, 1, 2) == pytest.approx(model.weights.total + absorbed, abs=16)
    compression = 61 * 7168 * (1536 + 576) * 2 * 7 / 8
    assert weight_bytes(model, 8, 1, 2) == pytest.approx((model.weights.total + absorbed) / 8 + compression, abs=16)
