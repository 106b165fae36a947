"""How a model is served: the family's choices for a release, and the user's settings, which always win."""

from typing import Any

import pytest

from provision.core.models.settings import Settings
from provision.phases.plan.family.choices import serving_plan, unknown_parsers
from provision.phases.plan.fit.serving_request import serving_request_of
from provision.phases.plan.fit.shape import shape_of
from provision.phases.plan.fit.weights import counted
from tests.family.models import FAMILIES, KIMI, LLAMA, LLAMA_31, QWEN3, QWEN3_MOE, of

RELEASE = "0.33.0"


def choices(
    model: str, config: dict[str, Any], version: str = RELEASE, **settings: Any
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the text of each choice, and the arguments for vLLM."""
    shape = shape_of(config, counted({"BF16": 1 << 20}, "a test"), model=model)
    wanted = serving_request_of(Settings.model_validate({"model": model, **settings}))
    found = serving_plan(shape, wanted, version)
    return {choice.name: choice.text for choice in found.choices}, found.flags


def test_a_family_brings_its_parsers() -> None:
    texts, flags = choices("Qwen/Qwen3-8B", QWEN3)
    assert flags == ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3")
    assert texts["tool_parser"] == "tool parser `hermes`, as the family Qwen3 needs"


def test_models_that_never_think_get_no_reasoning_parser() -> None:
    _, flags = choices("Qwen/Qwen3-30B-A3B-Instruct-2507", QWEN3_MOE)
    assert flags == ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")


@pytest.mark.parametrize(
    ("settings", "flags", "texts"),
    [
        (
            {"tool_parser": "qwen3_xml"},
            ("--enable-auto-tool-choice", "--tool-call-parser", "qwen3_xml", "--reasoning-parser", "qwen3"),
            {"tool_parser": "tool parser `qwen3_xml`, as `firstlight_tool_parser` says; the family Qwen3 has `hermes`"},
        ),
        (
            {"tool_parser": "none", "reasoning_parser": "none"},
            (),
            {
                "tool_parser": "no tool parser, as `firstlight_tool_parser: none` says; the family Qwen3 has `hermes`",
                "reasoning_parser": "no reasoning parser, as `firstlight_reasoning_parser: none` says; the family Qwen3 has `qwen3`",
            },
        ),
        (
            {"tool_parser": "hermes"},
            ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3"),
            {"tool_parser": "tool parser `hermes`, as `firstlight_tool_parser` says"},
        ),
        (
            {"chat_template": "/home/ann/tools.jinja"},
            ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3"),
            {"chat_template": "chat template `tools.jinja`, as `firstlight_chat_template` says"},
        ),
    ],
)
def test_the_users_choice_wins_and_a_conflict_is_told(
    settings: dict[str, Any], flags: tuple[str, ...], texts: dict[str, str]
) -> None:
    found, given = choices("Qwen/Qwen3-8B", QWEN3, **settings)
    assert given == flags
    assert {name: found[name] for name in texts} == texts


@pytest.mark.parametrize(
    ("version", "flags", "text"),
    [
        (
            "0.8.5",
            ("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
            "exists from vLLM 0.9.0 on, this is 0.8.5",
        ),
        (
            "0.9.0",
            ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3"),
            "`qwen3`, as",
        ),
    ],
)
def test_a_release_gets_only_the_parsers_that_it_has(version: str, flags: tuple[str, ...], text: str) -> None:
    texts, given = choices("Qwen/Qwen3-8B", QWEN3, version)
    assert given == flags
    assert text in texts["reasoning_parser"]


def test_a_reasoning_parser_needs_the_release_whose_option_works_alone() -> None:
    texts, flags = choices("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", LLAMA_31, "0.8.5")
    assert flags == ()
    assert texts["reasoning_parser"].startswith("no reasoning parser: `deepseek_r1`")


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        ((), ("--tokenizer-mode", "deepseek_v32")),
        (("--max-num-seqs", "8"), ("--tokenizer-mode", "deepseek_v32")),
        (("--tokenizer", "x"), ("--tokenizer-mode", "deepseek_v32")),
        (("--tokenizer-mode", "hf"), ()),
        (("--tokenizer_mode=hf",), ()),
        (("--no-tokenizer-mode",), ()),
    ],
)
def test_a_recommended_argument_gives_way_to_the_users(arguments: tuple[str, ...], passed: tuple[str, ...]) -> None:
    config = of("DeepseekV32ForCausalLM", "deepseek_v32")
    texts, flags = choices("deepseek-ai/DeepSeek-V3.2", config, vllm_args=list(arguments))
    assert flags[-len(passed) :] == passed if passed else "--tokenizer-mode" not in flags
    assert ("as in firstlight_vllm_args; the family DeepSeek-V3.2 has" in texts["argument"]) == (not passed)


def test_an_older_release_does_not_get_arguments_that_it_lacks() -> None:
    texts, flags = choices("deepseek-ai/DeepSeek-V3.2", of("DeepseekV32ForCausalLM", "deepseek_v32"), "0.12.0")
    assert "--tokenizer-mode" not in flags
    assert "argument" not in texts


def test_a_name_that_says_nothing_is_told() -> None:
    texts, flags = choices("/srv/models/mine", QWEN3_MOE)
    assert flags == ()
    assert "fits Qwen3-Coder and Qwen3-Instruct and Qwen3" in texts["family"]
    texts, flags = choices("/srv/models/mine", QWEN3_MOE, tool_parser="hermes")
    assert flags == ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    assert "family" not in texts


def test_a_model_of_no_family_is_served_as_it_is() -> None:
    assert choices("meta-llama/Llama-2-7b-hf", LLAMA) == ({}, ())


def test_the_quantisation_of_the_model_is_named() -> None:
    texts, flags = choices("x/y", LLAMA | {"quantization_config": {"quant_method": "awq"}})
    assert texts == {"quantization": "quantisation `awq`, as config.json says; vLLM loads it without an argument"}
    assert flags == ()


def test_no_family_trusts_code_by_itself() -> None:
    for _, model, config in FAMILIES:
        assert "--trust-remote-code" not in choices(model, config)[1], model


def test_code_is_trusted_by_the_setting_alone() -> None:
    texts, flags = choices("moonshotai/Kimi-K2-Instruct", KIMI, trust_remote_code=True)
    assert flags[-1] == "--trust-remote-code"
    assert "as `firstlight_trust_remote_code: true` says: its tokenizer" in texts["trust_remote_code"]
    texts, flags = choices("meta-llama/Llama-2-7b-hf", LLAMA, trust_remote_code=True)
    assert flags == ("--trust-remote-code",)
    assert "does not ask for any" in texts["trust_remote_code"]


@pytest.mark.parametrize(
    ("settings", "version", "text"),
    [
        ({}, RELEASE, None),
        ({"tool_parser": "none", "reasoning_parser": "auto"}, RELEASE, None),
        ({"tool_parser": "hermes"}, "0.6.0", None),
        ({"tool_parser": "herms"}, RELEASE, "no release of vLLM has this tool parser; similar are `hermes`"),
        ({"tool_parser": "zzzzz"}, RELEASE, "no release of vLLM has this tool parser"),
        ({"tool_parser": "minimax"}, RELEASE, "exists from vLLM 0.9.2 on, before 0.24.0"),
        ({"tool_parser": "minimax"}, "0.23.0", None),
        ({"reasoning_parser": "gemma4"}, "0.18.1", "exists from vLLM 0.19.0 on"),
        ({"tool_parser": "mine", "vllm_args": ["--tool-parser-plugin", "/x.py"]}, RELEASE, None),
        (
            {"reasoning_parser": "mine", "vllm_args": ["--tool-parser-plugin", "/x.py"]},
            RELEASE,
            "no release of vLLM has",
        ),
    ],
)
def test_parsers_that_a_release_lacks(settings: dict[str, Any], version: str, text: str | None) -> None:
    found = list(unknown_parsers(serving_request_of(Settings.model_validate(settings)), version))
    assert len(found) == (text is not None)
    assert text is None or text in found[0]
