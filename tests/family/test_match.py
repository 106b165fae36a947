"""The family of a model: by its config.json, and by its name where that cannot tell."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.phases.plan.family.families import families, match, option_since, parsers, quantizations
from tests.family.models import DEEPSEEK, FAMILIES, KIMI, LLAMA, LLAMA_31, QWEN3_MOE, nested, of


@pytest.mark.parametrize(
    ("family", "model", "config"), FAMILIES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_model_is_of_its_family(family: str, model: str, config: dict[str, Any]) -> None:
    assert match(config, model).family == family


def test_every_family_is_reached() -> None:
    assert {family for family, _, _ in FAMILIES} == set(families())


@pytest.mark.parametrize(
    ("config", "model", "possible"),
    [
        (QWEN3_MOE, "/srv/models/mine", ("Qwen3-Coder", "Qwen3-Instruct", "Qwen3")),
        (LLAMA, "meta-llama/Llama-2-7b-chat-hf", ()),
        (LLAMA, "meta-llama/Meta-Llama-3-8B", ()),
        (LLAMA_31, "hermes-4/tuned", ("Llama 3.1 to 3.3",)),
        (of("OPTForCausalLM", "opt"), "facebook/opt-125m", ()),
        ({"architectures": "LlamaForCausalLM"}, "x", ()),
        ({}, "Qwen3-8B", ()),
    ],
)
def test_a_name_that_says_nothing_chooses_nothing(
    config: dict[str, Any], model: str, possible: tuple[str, ...]
) -> None:
    found = match(config, model)
    assert (found.family, found.possible) == (None, possible)


@pytest.mark.parametrize(
    ("config", "model", "text"),
    [
        (KIMI, "moonshotai/Kimi-K2-Instruct", "tokenizer"),
        (of("InternLM2ForCausalLM", "internlm2", auto_map={"AutoConfig": "a.B"}), "x/y", "`internlm2`"),
        (of("NewForCausalLM", "brand_new", auto_map={"AutoConfig": "a.B"}), "x/y", "`brand_new`"),
        (of("NewForCausalLM", "brand_new", auto_map={"AutoModel": "a.B"}), "x/y", None),
        (of("NewForCausalLM", "brand_new", auto_map=["AutoConfig"]), "x/y", None),
        (DEEPSEEK, "deepseek-ai/DeepSeek-V3.1", None),
        (LLAMA_31, "meta-llama/Llama-3.1-8B", None),
        (nested("Gemma4ForConditionalGeneration", "gemma4"), "google/gemma-4-E2B-it", None),
    ],
)
def test_code_is_needed_only_where_vllm_does_not_know_the_model(
    config: dict[str, Any], model: str, text: str | None
) -> None:
    code = match(config, model).code
    assert (code is None) == (text is None)
    assert text is None or text in str(code)


def test_the_tables_agree() -> None:
    for row in families().values():
        assert row.tools or row.reasoning or row.code, row.name
        assert row.tools is None or row.tools in parsers("tool"), row.name
        assert row.reasoning is None or row.reasoning in parsers("reasoning"), row.name
        for argument in row.arguments:
            assert set(argument) == {"words", "since", "why"}, row.name
    for kind in ("tool", "reasoning"):
        for releases in parsers(kind).values():
            assert releases.since in releases
            assert releases.until is None or releases.until not in releases
        assert option_since(kind)
    assert all(row.since in row.releases for row in quantizations().values())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["architectures", "model_type", "auto_map", "rope_scaling"]), JSON),
    st.text(max_size=30),
)
def test_any_config_has_an_answer(config: dict[str, Any], model: str) -> None:
    found = match(config, model)
    assert found.family is None or found.family in families()
