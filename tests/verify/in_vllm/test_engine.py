"""`engine.answers` with vLLM's own engine on this CPU: it passes with the engine unchanged, and fails where the engine is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from provision.phases.serve.onhost import builtin_model
from verify.checks.engine import answers
from verify.serving import small_llama

WAY, OPTIONS = next(iter(answers.WAYS.items()))
FAR = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / answers.MODEL
    builtin_model.make(made, None, "none")
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> small_llama.Llama:
    return small_llama.load(folder)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Any:
    return answers._engine(folder, "float32", OPTIONS)


@pytest.fixture
def asked(model: small_llama.Llama) -> list[list[int]]:
    """Two short prompts and two that reach beyond 200 positions."""
    prompts = answers.prompts(model.config["vocab_size"])
    assert min(map(len, prompts[-2:])) > FAR
    return [*prompts[2:4], *prompts[-2:]]


def problems(engine: Any, model: small_llama.Llama, asked: list[list[int]]) -> list[str]:
    return answers._compare(model, asked, [answers._answers(engine, asked)] * 2, "float32", {}, WAY)


def test_the_engine_answers_and_samples_like_the_reference(
    engine: Any, model: small_llama.Llama, asked: list[list[int]]
) -> None:
    assert problems(engine, model, asked) == []
    assert answers._drawn(engine, model, asked[1]) <= 1


def test_angles_that_are_wrong_from_position_200_are_noticed_in_long_prompts(
    engine: Any, model: small_llama.Llama, asked: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = torch.ops._C.rotary_embedding
    calls = []

    def wrong(positions: Any, *rest: Any) -> None:
        calls.append(positions)
        sound(torch.where(positions >= FAR, positions - 1, positions), *rest)

    monkeypatch.setattr(torch.ops._C, "rotary_embedding", wrong)
    found = problems(engine, model, asked)
    assert calls
    assert {text.partition(",")[0] for text in found} == {"prompt 3", "prompt 4"}


@pytest.mark.parametrize(
    "change",
    [
        lambda sound, logits, k, p: logits,
        lambda sound, logits, k, p: sound(logits, None, p),
        lambda sound, logits, k, p: sound(logits, k, None),
    ],
    ids=["no-limits", "no-top-k", "no-top-p"],
)
def test_a_sampler_that_ignores_its_limits_is_noticed(
    change: Callable[..., Any],
    engine: Any,
    model: small_llama.Llama,
    asked: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm.v1.sample.ops import topk_topp_sampler as sampler  # after the engine has chosen its platform

    sound = sampler.apply_top_k_top_p
    monkeypatch.setattr(sampler, "apply_top_k_top_p", lambda logits, k, p: change(sound, logits, k, p))
    assert not answers._drawn(engine, model, asked[1]) <= 1
