"""The rule `model-fit` in the plan: refusals, the nearest change, the values in the Stack."""

import json
from dataclasses import replace
from typing import Any

import pytest

from provision.core.models.settings import Settings
from provision.core.models.stack import ModelPlan, Plan, Resolution
from provision.phases.plan import choose_stacks
from provision.phases.plan.explain import render
from provision.phases.plan.fit.shape import Shape
from provision.phases.plan.fit.weights import KNOWN
from provision.phases.plan.what_if import parse_what_if
from tests.fit.models import deepseek_v3, llama_8b, llama_70b
from tests.plan.planned import CPU, HOST, plan_of, refusing, resolve, stack_of, texts_of


def fitted(line: str, shape: Shape, **settings: Any) -> Resolution:
    """Return what is planned for a host that serves a model with this shape."""
    return resolve(line, {"org/model": shape}, **settings)


def planned_model(found: Resolution) -> ModelPlan:
    model = stack_of(found).model
    assert model
    return model


def test_a_model_that_fits_is_in_the_stack() -> None:
    found = fitted(HOST.format("RTX4080x2"), llama_8b())
    model = planned_model(found)
    assert (model.tensor_parallel, model.own_max_model_len) == (2, 131072)
    assert model.max_model_len is not None
    assert 40_000 < model.max_model_len < 131072
    assert model.flags == ("--tensor-parallel-size", "2", "--max-model-len", str(model.max_model_len))
    assert "15.0 GiB of weights fit with a context of" in "\n".join(texts_of(found, "model-fit"))


@pytest.mark.parametrize(
    ("settings", "gpus"),
    [
        ({}, "2 of 3 (indexes 0, 1) serve the model: 32 attention heads cannot be divided by 3"),
        ({"tensor_parallel": 1}, "1 of 3 (index 0) serve the model: the settings request tensor 1 x pipeline 1 x data"),
        ({"pipeline_parallel": 3}, "3 (indexes 0, 1, 2)"),
    ],
)
def test_a_plan_says_which_gpus_a_model_uses(settings: dict[str, Any], gpus: str) -> None:
    found = fitted(HOST.format("H100x3"), llama_8b(), **settings)
    [line] = [line for line in render(Plan(classes=(found,)), {}).splitlines() if line.startswith("  GPUs ")]
    assert line.split(maxsplit=1)[1].startswith(gpus)


def test_a_model_too_large_for_one_host_fits_on_two() -> None:
    alone = fitted(HOST.format("H100x8"), deepseek_v3())
    assert alone.stack is None
    found = fitted(HOST.format("H100x8"), deepseek_v3(), span=2)
    model = planned_model(found)
    assert (model.tensor_parallel, model.pipeline_parallel) == (8, 2)
    assert model.flags[:4] == ("--tensor-parallel-size", "8", "--pipeline-parallel-size", "2")
    assert texts_of(found, "span") == [
        "2 hosts with 8 GPUs each serve one model together: each has a part of the layers"
    ]
    assert any("the network between the 2 hosts carries" in text for text in found.assumptions)


def test_a_requested_gpu_that_does_not_exist_is_refused_with_a_model_too() -> None:
    found = fitted(HOST.format("RTX4080x2"), llama_8b(), gpus=[9])
    assert [reason.text for reason in found.reasons if reason.verdict == "reject"] == ["no GPU has index 9"]


def test_two_cpu_hosts_have_twice_the_memory_and_share_each_layer() -> None:
    assert fitted(CPU.format(16), llama_8b()).stack is None
    found = fitted(CPU.format(16), llama_8b(), span=2)
    model = planned_model(found)
    assert (model.tensor_parallel, model.pipeline_parallel) == (2, 1)


def test_a_release_that_serves_on_one_host_only_is_refused_for_two() -> None:
    found = fitted(HOST.format("H100x8"), llama_8b(), span=2, vllm="==0.11.0")
    assert found.stack is None
    assert set(refusing(found)) == {"span"}
    assert fitted(HOST.format("H100x8"), llama_8b(), vllm="==0.11.0").stack


def test_more_hosts_do_not_help_where_the_processes_cannot_be_divided() -> None:
    found = fitted(HOST.format("H100x8"), llama_70b(), span=2, tensor_parallel=1, pipeline_parallel=1)
    assert found.stack is None
    assert "1 processes cannot be divided by 2 hosts" in found.reasons[0].text


def test_the_built_in_model_is_not_evaluated() -> None:
    found = resolve(HOST.format("H100x1"))
    assert stack_of(found).model is None
    assert not texts_of(found, "model-fit")


@pytest.mark.parametrize(
    ("gpus", "shape", "settings", "text", "nearest"),
    [
        ("H100x1", llama_70b(), {}, "need 131.4 GiB, and the overhead", "with 2 such GPUs"),
        ("H100x8", deepseek_v3(), {}, "on each of 8 GPUs", "with 16 such GPUs"),
        ("H100x4", llama_8b(), {"tensor_parallel": 3}, "cannot be divided by 3", "with `--set tensor_parallel=4`"),
        ("RTX4090x1", llama_8b(), {"max_model_len": 65536}, "8.0 GiB of cache", "with `--set max_model_len="),
        ("H100x1", llama_8b(), {"max_model_len": 200000}, "supports 131072", "with `--set max_model_len=131072`"),
        (None, llama_8b(), {}, "the host has 16.0 GiB of memory", "with 32 GiB of memory"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_the_smallest_change(
    gpus: str | None, shape: Shape, settings: dict[str, Any], text: str, nearest: str
) -> None:
    line = HOST.format(gpus) if gpus else CPU.format(16)
    found = fitted(line, shape, **settings)
    assert found.stack is None
    assert found.reasons[0].rule == "model-fit"
    assert text in found.reasons[0].text
    assert found.nearest
    assert found.nearest.text.startswith(nearest), found.nearest.text
    if found.nearest.policy:
        wanted = {key: json.loads(value) for key, value in found.nearest.policy.items()}
        assert fitted(line, shape, **(settings | wanted)).stack is not None


def test_a_disk_too_small_for_the_model_is_named() -> None:
    found = fitted(HOST.replace("disk=900", "disk=140").format("H100x4"), llama_70b())
    assert found.stack is None
    assert found.reasons[0].rule == "disk"
    assert fitted(HOST.format("H100x4"), llama_70b()).stack is not None


def test_unknown_memory_never_refuses() -> None:
    facts = parse_what_if(HOST.format("H100x1"))
    assert facts.nvidia
    odd = facts.nvidia.gpus[0].model_copy(update={"name": "NVIDIA Nobody Knows", "compute_capability": "9.0"})
    facts = facts.model_copy(update={"nvidia": facts.nvidia.model_copy(update={"gpus": (odd,)})})
    found = resolve(facts, {"org/model": llama_70b()})
    assert found.stack is not None
    assert any("whose memory is unknown" in text for text in found.assumptions)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"architectures": ["JambaForCausalLM"]}, "other state than keys and values"),
        ({"architectures": ["BrandNewForCausalLM"]}, "is not in the table"),
    ],
)
def test_assumptions_are_listed(changed: dict[str, Any], text: str) -> None:
    found = fitted(HOST.format("H100x1"), llama_8b(**changed))
    assert found.stack is not None
    assert any(text in assumption for assumption in found.assumptions)


@pytest.mark.parametrize(
    ("arguments", "changed", "length", "assumed"),
    [
        (["--quantization", "fp8"], {}, True, ""),
        (["-q", "mxfp4"], {}, True, ""),
        (["--cpu-offload-gb", "10"], {}, True, ""),
        (["--cpu_offload_gb=1.5"], {}, None, ""),
        (["--quantization", "awq"], {}, False, "`--quantization` changes the memory that its weights take"),
        (["--quantization=fp8"], {"vision_config": {"depth": 2}}, False, "`--quantization` changes the memory"),
        (["--quantization-config", "{}"], {}, False, "`--quantization-config` changes the memory"),
        (["--offload-group-size", "8"], {}, False, "`--offload-group-size` changes the memory"),
        (["--quantization", "fp8"], {"quantization_config": {"quant_method": "awq"}}, None, ""),
    ],
)
def test_weights_that_arguments_make_smaller_fit(
    arguments: list[str], changed: dict[str, Any], *, length: bool | None, assumed: str
) -> None:
    found = fitted(HOST.format("RTX5080x1"), llama_8b(**changed), vllm_args=arguments)
    assert (found.stack is None) == (length is None)
    if length is not None:
        assert (planned_model(found).max_model_len is not None) == length
    assert any(assumed in text for text in found.assumptions)


def test_the_memory_of_adapters_is_assumed() -> None:
    found = fitted(HOST.format("H100x1"), llama_8b(), lora={"support": "org/support"})
    assert "the adapters of `org/model` fit; their memory is not computed" in found.assumptions


def test_a_draft_model_is_counted_or_assumed() -> None:
    speculative = {"model": "org/draft"}
    shapes = {"org/model": llama_8b(), "org/draft": llama_8b(num_hidden_layers=1)}
    found = resolve(HOST.format("H100x1"), shapes, speculative=speculative)
    assert any("15.0 GiB of them the draft model's" in reason.text for reason in found.reasons)
    assert not any("draft" in text for text in found.assumptions)
    for draft, text in (
        (None, "the KV cache and the draft model of `org/model` fit; they are not computed"),
        (deepseek_v3(), "the KV cache of `org/model` fits; it cannot be computed: its draft model keeps other state"),
    ):
        known = {"org/model": llama_8b()} | ({"org/draft": draft} if draft else {})
        assert text in resolve(HOST.format("B300x8"), known, speculative=speculative).assumptions


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--speculative-config.method", "ngram"],
        ["-sc", "{}"],
        ["--speculative", "{}"],
        ["--spec-method", "ngram"],
        ["--spec_model=org/draft"],
        ["--spec-tokens", "4"],
    ],
)
def test_speculative_decoding_is_refused_where_it_draws_wrongly(arguments: list[str]) -> None:
    given: dict[str, Any] = {"vllm_args": arguments} if arguments else {"speculative": {"method": "ngram"}}
    on_cpu = HOST.replace("gpu={} driver=580.65.06", "gpu=none").replace("ubuntu-24.04", "debian-13")
    refused = resolve(on_cpu, vllm="0.32.0", **given)
    assert any("draws tokens wrongly on CPUs" in reason.text for reason in refused.reasons)
    later = resolve(on_cpu, **given)
    assert later.stack is not None
    assert any("rightly on CPUs with speculative decoding, as 0.32.0 does not" in text for text in later.assumptions)
    assert resolve(HOST.format("H100x1"), vllm="0.32.0", **given).stack is not None


def test_hosts_with_another_model_are_another_class() -> None:
    facts = parse_what_if(HOST.format("H100x1"))
    settings = {name: Settings.model_validate({"model": name}) for name in ("a/a", "b/b")}
    shapes = {"a/a": llama_8b(), "b/b": llama_8b(num_hidden_layers=16)}
    assert len(choose_stacks({"a/a": facts, "b/b": facts}, settings, shapes=shapes).classes) == 2


def test_the_fit_is_explained() -> None:
    text = render(plan_of(HOST.format("RTX4090x1"), {"org/model": llama_8b()}), {})
    line = next(line for line in text.splitlines() if line.strip().startswith("model"))
    assert "org/model, 15.0 GiB of weights; context" in line
    assert "of 131072 tokens, KV cache" in line
    assert "--max-model-len" in line


def test_sizes_that_nobody_confirmed_are_an_assumption() -> None:
    shape = llama_8b()
    known = replace(shape, weights=replace(shape.weights, source=KNOWN))
    sentence = "are those in Firstlight's catalog; the model hub does not answer"
    assert any(sentence in text for text in fitted("gpu=L4x1 ram=64", known).assumptions)
    assert not any(sentence in text for text in fitted("gpu=L4x1 ram=64", shape).assumptions)


def test_a_model_too_large_for_a_known_amd_card_is_refused() -> None:
    found = fitted("gpu=RX7600x1 rocm=7.2.2 os=ubuntu-24.04 ram=256 disk=900", llama_8b())
    assert found.stack is None
    assert "model-fit" in refusing(found)
