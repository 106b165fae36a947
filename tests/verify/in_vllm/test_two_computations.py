"""The bounds of `serving.answer` for long prompts: two computations of the built-in model that round differently stay within them.

A model whose attention scale is 2 % off does not, whichever computes it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from provision.phases.serve.onhost import builtin_model
from verify.serving.answers import NotProvenError, check_prompt, fit
from verify.serving.small_llama import Llama, load, of_tokens
from verify.tables import table

LIMITS = table("serving")["answer"]
PROMPT = random.Random(41).choices(range(256), k=LIMITS["long_prompt"])
STEP: float = LIMITS["scale"]["step"]
Computation = Callable[[float, torch.dtype], list[float]]
"""Log probabilities of the prompt's tokens, for a factor of the attention scale and a number type."""


@dataclass(frozen=True)
class Rounded(Llama):
    """The model with each result rounded to a number type, and sums in float64."""

    dtype: torch.dtype = torch.bfloat16

    def logprobs(self, tokens: Sequence[int]) -> Tensor:
        hidden = self.weights["model.embed_tokens.weight"][torch.tensor(list(tokens))]
        for layer in range(self.config["num_hidden_layers"]):
            stem = f"model.layers.{layer}"
            hidden = self._round(
                hidden + self._attention(self._norm(hidden, f"{stem}.input_layernorm"), f"{stem}.self_attn")
            )
            hidden = self._round(
                hidden + self._mlp(self._norm(hidden, f"{stem}.post_attention_layernorm"), f"{stem}.mlp")
            )
        return self._linear(self._norm(hidden, "model.norm"), "lm_head").log_softmax(dim=1)

    def _round(self, values: Tensor) -> Tensor:
        return values.to(self.dtype).double()

    def _linear(self, values: Tensor, name: str) -> Tensor:
        return self._round(super()._linear(self._round(values), name))

    def _norm(self, values: Tensor, name: str) -> Tensor:
        return self._round(super()._norm(values, name))

    def _turned(self, part: Tensor) -> Tensor:
        return self._round(super()._turned(part))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model") / "builtin-1"
    builtin_model.make(place, None)
    return place


@pytest.fixture(scope="module")
def exact(folder: Path) -> Llama:
    return load(folder)


@pytest.fixture(scope="module")
def computations(folder: Path, exact: Llama) -> dict[str, Computation]:
    """Two that share no code: this product's, and transformers' with torch's own kernels in the number type."""

    def rounded(factor: float, dtype: torch.dtype) -> list[float]:
        return Rounded(exact.config, exact.scaled(factor).weights, dtype).given(PROMPT)

    def by_transformers(factor: float, dtype: torch.dtype) -> list[float]:
        transformers.utils.logging.disable_progress_bar()
        model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
        for layer in model.model.layers:
            layer.self_attn.scaling *= factor
        with torch.inference_mode():
            return of_tokens(model(torch.tensor([PROMPT])).logits[0].double().log_softmax(dim=1), PROMPT)

    return {"rounded": rounded, "transformers": by_transformers}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_bound_is_what_two_computations_that_round_differently_need(
    dtype: str, exact: Llama, computations: dict[str, Computation]
) -> None:
    given, scaled = exact.given(PROMPT), exact.scaled(1 + STEP).given(PROMPT)
    found = {name: compute(1.0, getattr(torch, dtype)) for name, compute in computations.items()}
    fits = [fit(values, given, scaled) for values in found.values()]
    for each in fits:
        check_prompt(each, len(PROMPT), dtype)
    one, other = found.values()
    apart, bound = fit(one, other, None).off, LIMITS["spread"][dtype]
    largest = max(each.off for each in fits)
    assert apart > largest / 3, "they round alike"
    assert apart < bound
    if dtype != "float32":
        assert 1.2 * largest < bound < 3 * largest, [each.off for each in fits]


@pytest.mark.parametrize("factor", [1 + STEP, 1 - STEP])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["rounded", "transformers"])
def test_an_attention_scale_that_is_2_percent_off_is_outside_of_the_bounds(
    name: str, dtype: str, factor: float, exact: Llama, computations: dict[str, Computation]
) -> None:
    values = computations[name](factor, getattr(torch, dtype))
    found = fit(values, exact.given(PROMPT), exact.scaled(1 + STEP).given(PROMPT))
    assert found.scale == pytest.approx(factor - 1, abs=0.005)
    with pytest.raises(NotProvenError):
        check_prompt(found, len(PROMPT), dtype)
