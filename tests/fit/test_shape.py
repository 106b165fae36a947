from typing import Any

import pytest

from provision.core.errors import ModelError
from tests.fit.models import DEEPSEEK_V3, GEMMA3_1B, GPT_OSS_20B, LLAMA_8B, deepseek_v3, llama_8b, shape


def test_heads_of_a_grouped_query_model() -> None:
    found = llama_8b()
    assert (found.layers, found.heads, found.kv_heads, found.head_size) == (32, 32, 8, 128)
    assert found.windows == (None,) * 32
    assert (found.length, found.usual_length) == (131072, 131072)
    assert found.known
    assert found.not_computed is None


def test_a_compressed_vector_replaces_keys_and_values() -> None:
    found = deepseek_v3()
    assert found.latent == 512 + 64
    assert found.quantization == "fp8"
    assert found.length == 163840
    without = {key: value for key, value in DEEPSEEK_V3.items() if key != "kv_lora_rank"}
    assert "kv_lora_rank" in (shape(without, {"BF16": 1}).not_computed or "")


def test_a_class_without_a_row_compresses_by_the_type_of_its_language_part() -> None:
    text = DEEPSEEK_V3 | {"model_type": "kimi_k2"}
    found = shape({"architectures": ["KimiK25ForConditionalGeneration"], "text_config": text}, {"F8_E4M3": 1})
    assert (found.known, found.latent, found.kind) == (False, 512 + 64, "latent")
    usual = shape({"architectures": ["OtherForConditionalGeneration"], "text_config": LLAMA_8B}, {"BF16": 1})
    assert (usual.latent, usual.kind) == (None, "usual")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("llama", (32, 4096, (11008,), 32)), ("mistral", (32, 4096, (14336,), 8)), ("qwen2", (32, 4096, (22016,), 32))],
)
def test_a_part_for_text_that_leaves_values_out_has_those_of_its_type(
    kind: str, expected: tuple[int, int, tuple[int, ...], int]
) -> None:
    text = {"model_type": kind, "max_position_embeddings": 4096, "vocab_size": 32064}
    found = shape({"architectures": ["LlavaForConditionalGeneration"], "text_config": text}, {"BF16": 1})
    assert (found.layers, found.hidden, found.inner, found.kv_heads) == expected
    assert (found.heads, found.length, found.vocabulary) == (32, 4096, 32064)
    with pytest.raises(ModelError, match="num_attention_heads"):
        shape({"architectures": ["LlamaForCausalLM"], **text}, {"BF16": 1})
    with pytest.raises(ModelError, match="num_attention_heads"):
        shape({"architectures": ["NewModel"], "text_config": text | {"model_type": "new"}}, {"BF16": 1})


def test_windows_are_read_from_a_list_and_from_a_pattern() -> None:
    assert shape(GPT_OSS_20B, {"U8": 1}).windows == (128, None) * 12
    gemma = shape(GEMMA3_1B, {"BF16": 1}).windows
    assert [place for place, window in enumerate(gemma) if window is None] == [5, 11, 17, 23]
    assert set(gemma) == {512, None}


@pytest.mark.parametrize(
    ("changed", "window"),
    [
        ({"sliding_window": 4096}, 4096),
        ({"sliding_window": 4096, "use_sliding_window": True}, 4096),
        ({"sliding_window": 4096, "use_sliding_window": False}, None),
        ({"sliding_window": None}, None),
    ],
)
def test_a_window_may_apply_to_all_layers(changed: dict[str, object], window: int | None) -> None:
    qwen = LLAMA_8B | {"architectures": ["Qwen2ForCausalLM"]}
    assert shape(qwen, {"BF16": 1}, **changed).windows == (window,) * 32


def test_the_language_part_of_a_vision_model_is_read() -> None:
    text: dict[str, Any] = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    }
    text |= {"model_type": "gemma3_text", "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}
    found = shape({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}, {"BF16": 1})
    # the table has the defaults of the class, whose length is that after scaling
    assert (found.heads, found.kv_heads, found.head_size, found.length) == (8, 4, 256, 131072)
    assert found.windows.count(None) == 5


def test_the_language_part_of_a_model_that_speaks_is_that_of_its_thinker() -> None:
    parts = {"thinker_config": {"text_config": LLAMA_8B}, "talker_config": {"text_config": {"hidden_size": 64}}}
    found = shape({"architectures": ["Qwen3OmniMoeForConditionalGeneration"], **parts}, {"BF16": 1})
    assert (found.hidden, found.heads, found.kv_heads) == (4096, 32, 8)


@pytest.mark.parametrize(
    ("scaling", "length", "usual"),
    [
        ({"type": "linear", "factor": 4.0}, 16384, 16384),
        ({"rope_type": "dynamic", "factor": 2}, 8192, 8192),
        ({"rope_type": "llama3", "factor": 8.0}, 4096, 4096),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096, 4096),
        ({"type": "longrope"}, 4096, 2048),
        ({"type": "su"}, 4096, 2048),
        (None, 4096, 4096),
    ],
)
def test_the_context_length_follows_the_kind_of_scaling(
    scaling: dict[str, object] | None, length: int, usual: int
) -> None:
    found = llama_8b(max_position_embeddings=4096, original_max_position_embeddings=2048, rope_scaling=scaling)
    assert (found.length, found.usual_length) == (length, usual)


def test_the_length_that_a_model_states_replaces_that_of_its_positions() -> None:
    assert llama_8b(max_position_embeddings=8192, model_max_length=131072).length == 131072


def test_falcon_has_one_key_head() -> None:
    config = {"architectures": ["FalconForCausalLM"], "multi_query": True, "num_hidden_layers": 60}
    config |= {"num_attention_heads": 128, "hidden_size": 14848, "num_kv_heads": 8}
    assert shape(config, {"BF16": 1}).kv_heads == 1
    assert shape(config, {"BF16": 1}, new_decoder_architecture=True).kv_heads == 8


@pytest.mark.parametrize("name", ["JambaForCausalLM", "Qwen3NextForCausalLM", "DeciLMForCausalLM"])
def test_models_with_other_state_are_not_computed(name: str) -> None:
    assert "other state than keys and values" in (llama_8b(architectures=[name]).not_computed or "")


def test_a_layer_of_another_kind_is_named() -> None:
    mixed = llama_8b(layer_types=["linear_attention", "full_attention"] * 16)
    assert "linear_attention" in (mixed.not_computed or "")


def test_layers_of_an_unknown_class_are_assumed_to_be_equal() -> None:
    found = llama_8b(architectures=["BrandNewForCausalLM"])
    assert not found.known
    assert found.windows == (None,) * 32


def test_a_config_of_no_language_model_is_named() -> None:
    with pytest.raises(ModelError, match="ResNetForImageClassification model has no `num_attention_heads`") as caught:
        shape({"architectures": ["ResNetForImageClassification"], "hidden_size": 64}, {"F32": 1})
    assert "config.json" in (caught.value.hint or "")


@pytest.mark.parametrize("key", ["vocab_size", "sliding_window", "max_position_embeddings"])
@pytest.mark.parametrize("value", ["many", 1.5, {}, 10**30])
def test_an_invalid_size_is_named(key: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"config.json has `{key}: "):
        llama_8b(**{key: value})


@pytest.mark.parametrize("value", [None, False, 0, -1])
def test_the_absence_of_a_window_is_written_in_many_ways(value: object) -> None:
    assert llama_8b(sliding_window=value, layer_types=["sliding_attention"] * 32).windows == (None,) * 32


@pytest.mark.parametrize("factor", ["4", -1, float("inf"), float("nan")])
def test_an_invalid_factor_does_not_extend_the_context(factor: object) -> None:
    scaling = {"type": "linear", "factor": factor}
    assert llama_8b(max_position_embeddings=4096, rope_scaling=scaling).length == 4096
