"""How a model is served, in the plan: what the rules refuse, the nearest change, the Stack, and what a person reads."""

import json
from typing import Any

import pytest

from provision.core.models.stack import Resolution
from provision.phases.plan.explain import render
from provision.phases.plan.family.families import int8_on_x86
from provision.phases.plan.step import cause_of
from provision.phases.plan.what_if import parse_what_if
from tests.family.models import KIMI, LLAMA, QWEN3, QWEN3_MOE, TEXT, nested, of
from tests.plan.planned import CPU, HOST, model_of, plan_of, refusing, release_of, resolve, stack_of, texts_of
from verify.tables import table


def planned(model: str, config: dict[str, Any], gpu: str = "H100x1", **settings: Any) -> tuple[Resolution, str]:
    """Return what is planned for a host that serves a model, and the text of the plan with its trace."""
    plan = plan_of(HOST.format(gpu), model_of(config, model), **settings)
    return plan.classes[0], render(plan, {}, explain=True)


def test_the_stack_has_the_choices_and_a_person_reads_them_with_their_source() -> None:
    found, text = planned("Qwen/Qwen3-8B", QWEN3)
    serving = stack_of(found).serving
    assert serving
    assert serving.family == "Qwen3"
    assert serving.flags[-2:] == ("--reasoning-parser", "qwen3")
    lines = [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith("  serving ")]
    assert lines == [
        "tool parser `hermes`, as the family Qwen3 needs",
        "reasoning parser `qwen3`, as the family Qwen3 needs",
    ]
    assert "ok   tool parser `hermes`, as the family Qwen3 needs" in text
    assert "recipes: Qwen/Qwen3-32B.yaml" in text


def test_the_built_in_model_has_no_choices() -> None:
    assert stack_of(resolve(HOST.format("H100x1"), tool_parser="hermes")).serving is None


def test_code_of_the_model_needs_the_users_trust() -> None:
    refused, text = planned("moonshotai/Kimi-K2-Instruct", KIMI)
    assert refused.stack is None
    assert refusing(refused) == ["remote-code"]
    assert cause_of("remote-code") == "remote-code"
    assert "(its tokenizer is Python code of the repository), and firstlight_trust_remote_code is not true" in text
    assert refused.nearest
    assert refused.nearest.policy == {"trust_remote_code": "true"}
    assert "if you trust the code of `moonshotai/Kimi-K2-Instruct`" in refused.nearest.text
    trusted, text = planned("moonshotai/Kimi-K2-Instruct", KIMI, trust_remote_code=True)
    serving = stack_of(trusted).serving
    assert serving
    assert serving.flags[-1] == "--trust-remote-code"
    assert "and firstlight_trust_remote_code is true" in text


def test_code_of_another_repository_is_refused_with_its_name() -> None:
    config = of("NewModel", "brand_new", auto_map={"AutoConfig": "org/implementation--configuration.NewConfig"})
    refused, text = planned("org/model", config, trust_remote_code=True)
    assert refusing(refused) == ["remote-code"]
    assert "is in another repository, `org/implementation`" in text


@pytest.mark.parametrize("setting", ["tool_parser", "reasoning_parser"])
def test_a_parser_that_no_release_has_is_refused(setting: str) -> None:
    refused, _ = planned("Qwen/Qwen3-8B", QWEN3, **{setting: "qwen33"})
    assert refused.stack is None
    assert "serving-choices" in refusing(refused)
    assert refused.nearest
    assert refused.nearest.policy == {setting: "auto"}


def test_a_release_without_the_requested_parser_gives_way_to_one_that_has_it() -> None:
    found, _ = planned("x/y", LLAMA, tool_parser="minimax")
    assert release_of(found) == "0.23.0"
    assert "serving-choices" in refusing(found)


def test_a_release_without_the_models_quantisation_gives_way_to_one_that_has_it() -> None:
    config = LLAMA | {"quantization_config": {"load_in_4bit": True, "quant_method": "bitsandbytes"}}
    found, text = planned("x/y", config)
    assert release_of(found) == "0.27.1"
    assert "quantised as `bitsandbytes`, which exists from vLLM 0.6.0 on, before 0.28.0" in text


@pytest.mark.parametrize(("gpu", "fits"), [("T4x1", False), ("A10x1", True)])
def test_cards_below_the_quantisations_bound_are_refused(gpu: str, fits: bool) -> None:
    config = of("GptOssForCausalLM", "gpt_oss", quantization_config={"quant_method": "mxfp4"})
    found, text = planned("openai/gpt-oss-20b", config, gpu)
    assert (found.stack is not None) == fits
    assert ("needs compute capability 8.0; the GPUs have 7.5" in text) == (not fits)


def compressed(**group: object) -> dict[str, Any]:
    """Return config.json of a model that compressed-tensors has quantised in one way."""
    return LLAMA | {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}}


@pytest.mark.parametrize(("gpu", "fits"), [("V100x1", False), ("T4x1", True)])
def test_a_scheme_that_asks_for_more_than_its_method_is_refused(gpu: str, fits: bool) -> None:
    floats = {"num_bits": 8, "type": "float"}
    found, text = planned("x/y", compressed(weights=floats, input_activations=floats), gpu)
    assert (found.stack is not None) == fits
    assert ("needs compute capability 7.5; the GPUs have 7.0" in text) == (not fits)


W4A8 = {
    "weights": {"num_bits": 4, "type": "int", "group_size": 128},
    "input_activations": {"num_bits": 8, "type": "float"},
}
MXFP4 = {"weights": {"num_bits": 4, "type": "float", "group_size": 32}}
NVFP4 = {"weights": {"num_bits": 4, "type": "float", "group_size": 16}}


@pytest.mark.parametrize(
    ("group", "gpu", "vllm", "refused"),
    [
        (W4A8, "H100x1", "==0.26.0", ""),
        (W4A8, "B200x1", "==0.26.0", "needs compute capability exactly 9.0; the GPUs have 10.0"),
        (W4A8, "A10x1", "==0.26.0", "needs compute capability exactly 9.0; the GPUs have 8.6"),
        (W4A8, "H100x1", "==0.10.1", "`compressed-tensors`, int-4 with float-8, which exists from vLLM 0.10.2 on"),
        (MXFP4, "A10x1", "==0.26.0", ""),
        (MXFP4, "T4x1", "==0.26.0", "needs compute capability 8.0; the GPUs have 7.5"),
        (MXFP4, "A10x1", "==0.13.0", "float-4 in groups of 32, which exists from vLLM 0.14.0 on; this is 0.13.0"),
        (NVFP4, "T4x1", "==0.26.0", ""),
    ],
)
def test_a_scheme_of_compressed_tensors_is_judged_by_release_and_card(
    group: dict[str, Any], gpu: str, vllm: str, refused: str
) -> None:
    found, text = planned("x/y", compressed(**group), gpu, vllm=vllm)
    assert ("quantization" in refusing(found)) == bool(refused)
    assert refused in text


INTEGERS = {"num_bits": 8, "type": "int"}
INT8 = compressed(weights=INTEGERS, input_activations=INTEGERS)
WEIGHTS_ALONE = compressed(weights=INTEGERS, input_activations=None)


@pytest.mark.parametrize(
    ("config", "flags", "serves"),
    [
        (INT8, ("avx2", "fma"), False),
        (INT8, ("avx2", "avx512_vnni"), True),
        (INT8, ("avx2", "avx_vnni"), True),
        (INT8, (), True),
        (WEIGHTS_ALONE, ("avx2", "fma"), True),
    ],
)
def test_a_processor_without_vnni_is_refused_a_model_that_multiplies_8_bit_integers(
    config: dict[str, Any], flags: tuple[str, ...], *, serves: bool
) -> None:
    facts = parse_what_if(CPU.format(64).replace("avx512", "avx2"))
    facts = facts.model_copy(update={"cpu": facts.cpu.model_copy(update={"flags": flags})})
    found = resolve(facts, model_of(config, "x/y"))
    assert (found.stack is not None) == serves
    refused = texts_of(found, "quantization", "reject")
    reason = "8-bit integers, which goes wrong on processors without avx512_vnni or avx_vnni"
    assert all(reason in text for text in refused)
    assert bool(refused) != serves
    assert any("8-bit integers" in text for text in found.assumptions) == (not flags)


BLOCKS = QWEN3 | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
SCALES = QWEN3 | {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}}
GPT_OSS = of("GptOssForCausalLM", "gpt_oss", quantization_config={"quant_method": "mxfp4"})
MODELOPT_FP4 = QWEN3 | {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}
AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4}}


@pytest.mark.parametrize(
    ("config", "level", "says"),
    [
        (BLOCKS, "avx512", "vLLM has no kernels for weights in fp8-block on processors without amx"),
        (BLOCKS, "amx", ""),
        (BLOCKS, None, "the processor has amx, without which vLLM has no kernels for weights in fp8-block"),
        (SCALES, "avx512", ""),
        (GPT_OSS, "avx512", "vLLM has no kernels for weights in mxfp4 on processors without amx"),
        (GPT_OSS, "amx", ""),
        (MODELOPT_FP4, "amx", "vLLM has no kernels for weights in nvfp4 on processors"),
        (MODELOPT_FP4, None, "vLLM has no kernels for weights in nvfp4 on processors"),
        (compressed(**NVFP4), "amx", "vLLM has no kernels for weights in float-4 in groups of 16 on processors"),
        (QWEN3 | AWQ, "avx2", ""),
        (QWEN3_MOE | AWQ, "avx512", "vLLM has no kernels for experts in awq on processors without amx"),
        (QWEN3_MOE | AWQ, "amx", ""),
        (QWEN3_MOE, "avx2", ""),
    ],
)
def test_a_processor_without_kernels_for_the_format_of_the_weights_is_refused(
    config: dict[str, Any], level: str | None, says: str
) -> None:
    facts = parse_what_if(CPU.format(64))
    facts = facts.model_copy(update={"cpu": facts.cpu.model_copy(update={"isa": level})})
    found = resolve(facts, model_of(config, "x/y"))
    refused = texts_of(found, "quantization", "reject")
    assumed = [text for text in found.assumptions if "kernels" in text]
    assert bool([*refused, *assumed]) == bool(says)
    assert all(says in text for text in [*refused, *assumed])
    assert (found.stack is None) == bool(refused)
    assert bool(assumed) == says.startswith("the processor")


def test_plan_and_check_name_the_same_instructions_for_8_bit_integers() -> None:
    assert set(int8_on_x86().flags) == set(table("cpu")["int8_products"]["exact_with"])


def test_the_plan_as_json_has_every_choice() -> None:
    found, _ = planned("Qwen/Qwen3-8B", QWEN3, tool_parser="qwen3_xml")
    document = json.loads(stack_of(found).model_dump_json())
    first = document["serving"]["choices"][0]
    assert (first["name"], first["value"], first["by"]) == ("tool_parser", "qwen3_xml", "setting")
    assert first["text"].endswith("the family Qwen3 has `hermes`")


def test_a_release_that_does_not_know_the_models_class_is_refused() -> None:
    config = {**QWEN3, "architectures": ["Qwen3MoeForCausalLM"]}
    older, _ = planned("org/moe", config, vllm="==0.8.3")
    assert "model-class" in refusing(older)
    newer, _ = planned("org/moe", config, vllm="==0.8.4")
    assert "model-class" not in refusing(newer)


@pytest.mark.parametrize(
    "config",
    [
        of("DeepseekV4ForCausalLM", "deepseek_v4"),
        of("KimiLinearForCausalLM", "kimi_linear"),
        nested("KimiK3ForConditionalGeneration", "kimi_k3"),
        nested("InklingForConditionalGeneration", "inkling_mm_model"),
        of("Dots3NoteForCausalLM", "dots3_note"),
        of("MiMoV2FlashForCausalLM", "mimo_v2_flash"),
        of("MiMoV2ForCausalLM", "mimo_v2"),
    ],
)
def test_attention_layers_that_no_proof_reads_are_refused_before_a_download(config: dict[str, Any]) -> None:
    found, _ = planned("org/model", config, trust_remote_code=True)
    assert "attention-layers" in refusing(found)


@pytest.mark.parametrize(
    ("gpu", "kind", "dtype"), [("T4", "gemma2", True), ("T4", "llama", False), ("A100-80G", "gemma2", False)]
)
def test_models_that_float16_breaks_are_computed_in_float32_where_gpus_have_no_bfloat16(
    gpu: str, kind: str, dtype: bool
) -> None:
    found, _ = planned("x/y", LLAMA | {"architectures": ["Gemma2ForCausalLM"], "model_type": kind}, f"{gpu}x1")
    stack = stack_of(found)
    assert stack.model
    assert stack.attention
    assert ("--dtype" in stack.model.flags) == dtype
    assert not dtype or (stack.attention.backend, stack.model.device_weights_bytes) == ("TRITON_ATTN", 2 << 30)


@pytest.mark.parametrize(
    ("gpu", "kind", "dtype", "refused"),
    [
        ("T4", "llama", "bfloat16", "bfloat16 needs compute capability 8.0, T4 has 7.5"),
        ("T4", "llama", "float16", ""),
        ("A100-80G", "gemma3", "float16", "is of type gemma3, which is numerically unstable in float16"),
        ("A100-80G", "gemma3", "bfloat16", ""),
        ("A100-80G", "paligemma", "float16", ""),
        ("A100-80G", "llama", "float16", ""),
    ],
)
def test_a_data_type_that_vllm_refuses_is_refused_before_a_download(
    gpu: str, kind: str, dtype: str, refused: str
) -> None:
    # vLLM judges by the type of the whole model, not by that of its part for text.
    parts = {"text_config": TEXT | {"model_type": "gemma2"}} if kind == "paligemma" else {}
    found, text = planned("x/y", LLAMA | {"model_type": kind} | parts, f"{gpu}x1", dtype=dtype)
    assert (found.stack is None) == bool(refused)
    assert refused in text
    if refused:
        assert set(refusing(found)) == {"data-type"}
        assert found.nearest
        assert found.nearest.policy == {"dtype": "auto"}
