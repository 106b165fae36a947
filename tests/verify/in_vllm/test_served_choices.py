"""What users choose beside their model, with vLLM's own server on this CPU: a draft model, drafts from the prompt, sampling defaults, quantised weights."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import vllm
from safetensors.torch import load_file, save_file
from vllm.platforms import current_platform
from vllm.utils import cpu_triton_utils

from provision.catalog.versions import numbers
from provision.core.models.settings import Settings
from provision.phases.plan.fit.result import fit
from provision.phases.plan.fit.serving_request import DeviceBudget, serving_request_of
from provision.phases.plan.fit.shape import shape_of
from provision.phases.plan.fit.tables import speculative
from provision.phases.plan.fit.weights import in_folder
from provision.phases.serve import command_line
from provision.phases.serve.model import ServedModel
from provision.phases.serve.onhost import builtin_model
from provision.phases.serve.onhost.ready.attention import kernels_in_use
from provision.phases.serve.onhost.ready.sample import acceptance
from tests.verify.in_vllm.engine_server import started
from verify.checks.serving import answer
from verify.serving.answers import GREEDY, greedy
from verify.serving.client import Client
from verify.serving.service import Service

DRAFTED = Settings(model="org/m", speculative={"model": "org/small", "num_speculative_tokens": 3})
PROMPTED = Settings(
    speculative={"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 3}
)
SAMPLING = {"temperature": 0.0, "repetition_penalty": 2.0, "presence_penalty": 2.0, "top_k": 3, "top_p": 0.5}
NUMBERS = {"num_bits": 8, "type": "int", "symmetric": True}
INT8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**NUMBERS, "strategy": "channel", "dynamic": False},
            "input_activations": {**NUMBERS, "strategy": "token", "dynamic": True},
        }
    },
}
"""Integers of 8 bits with a scale for each output, as compressed-tensors describes them in config.json."""


def speculation(settings: Settings, prefix: Path) -> tuple[str, ...]:
    model = ServedModel(kind="files", name="m", has_draft=settings.draft is not None)
    return command_line._speculative_options(settings, model, str(prefix))


def quantise(folder: Path) -> None:
    """Round the layers of a model to 8-bit integers."""
    path = folder / "model.safetensors"
    found: dict[str, torch.Tensor] = {}
    for name, weight in load_file(path).items():
        found[name] = weight
        if name.endswith("_proj.weight"):
            scale = weight.float().abs().amax(dim=1, keepdim=True) / 127
            found[name] = (weight.float() / scale).round().to(torch.int8)
            found[name.replace(".weight", ".weight_scale")] = scale.to(torch.bfloat16)
    save_file(found, path, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": INT8}))


@pytest.fixture(scope="module")
def drafted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The built-in model, which drafts for itself, with sampling defaults under which other tokens are the most likely ones."""
    prefix = tmp_path_factory.mktemp("served")
    model, reference = prefix / "models/m", prefix / "reference.json"
    builtin_model.make(model, reference)
    shutil.copytree(model, prefix / "small")
    shutil.move(prefix / "small", model / DRAFTED.draft_folder)
    given = (*speculation(DRAFTED, prefix), "--override-generation-config", json.dumps(SAMPLING))
    with started(prefix, model, *given, reference=str(reference)) as service:
        yield service


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The built-in model in 8-bit integers, with drafts from the prompt."""
    prefix = tmp_path_factory.mktemp("served")
    model = prefix / "models/m"
    builtin_model.make(model, prefix / "reference.json")
    quantise(model)
    with started(prefix, model, *speculation(PROMPTED, prefix)) as service:
        yield service


def client(service: Service) -> Client:
    return Client(service.endpoint, 60.0, "k")


def log_of(service: Service) -> str:
    return (service.prefix / "log").read_text()


@pytest.mark.usefixtures("bfloat16")
def test_a_draft_model_and_sampling_defaults_change_no_check(drafted: Service) -> None:
    outcome = answer.check_answer(drafted, whole=True)
    assert outcome.status == "ok", outcome.reason
    [share] = acceptance(client(drafted).text("/metrics"))
    matched = re.fullmatch(
        r"speculative decoding: (\d+)% of \d+ drafted tokens accepted since the server started", share
    )
    assert matched
    assert int(matched[1]) > 50, share


def test_requests_without_parameters_get_the_sampling_defaults(drafted: Service) -> None:
    asked = {"prompt": [5, 6], "ignore_eos": True, "max_tokens": 100}
    texts = [client(drafted).post("/v1/completions", asked)["choices"][0]["text"] for _ in range(4)]
    assert len({*texts}) == 1, "the default of vLLM is a temperature of 1"
    assert client(drafted).post("/v1/completions", {**asked, **GREEDY})["choices"][0]["text"] != texts[0]


def test_the_plan_counts_the_cache_of_a_draft_model_as_vllm_does(drafted: Service) -> None:
    folder = drafted.prefix / "models/m"
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    shape = shape_of(config, in_folder(folder))
    found = fit(replace(shape, draft=shape), serving_request_of(DRAFTED), DeviceBudget("cpu", 1, 8 << 30))
    assert found.cache
    [tokens] = re.findall(r"KV cache size: ([\d,]+) tokens", log_of(drafted))
    assert found.cache.tokens(64 << 20, builtin_model.MAX_LENGTH) == int(tokens.replace(",", ""))


def test_drafted_tokens_are_drawn_wrongly_on_cpus_as_the_plan_says() -> None:
    current_platform.import_kernels()
    written = torch.zeros(2, dtype=torch.int32)
    cpu_triton_utils._expand_kernel_impl(written, torch.tensor([3], dtype=torch.int32), torch.tensor([2]), 0, 0)
    is_wrong = written.tolist() != [3, 3]
    assert is_wrong == (numbers(vllm.__version__) <= numbers(speculative()["wrong_on_cpus"]))


def test_the_kernel_of_quantised_weights_is_named_and_drafts_come_from_the_prompt(quantised: Service) -> None:
    assert kernels_in_use(log_of(quantised).splitlines(), []) == [
        "CompressedTensorsW8A8Int8 weights use CPUInt8ScaledMMLinearKernel"
    ]
    assert len(greedy(client(quantised), [5, 6, 5, 6, 5], 64).tokens) == 64
    assert acceptance(client(quantised).text("/metrics"))
