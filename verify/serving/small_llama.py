"""The Llama architecture in plain float64: the reference for an engine's answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from verify.attention.cases import attention


@dataclass(frozen=True)
class Llama:
    """A model in memory; `weights` are float64, by transformers' names."""

    config: dict[str, Any]
    weights: dict[str, Tensor]

    def logprobs(self, tokens: Sequence[int]) -> Tensor:
        """Return the log probabilities of each next token, (tokens, vocabulary)."""
        hidden = self.weights["model.embed_tokens.weight"][torch.tensor(list(tokens))]
        for layer in range(self.config["num_hidden_layers"]):
            stem = f"model.layers.{layer}"
            hidden = hidden + self._attention(self._norm(hidden, f"{stem}.input_layernorm"), f"{stem}.self_attn")
            hidden = hidden + self._mlp(self._norm(hidden, f"{stem}.post_attention_layernorm"), f"{stem}.mlp")
        return self._linear(self._norm(hidden, "model.norm"), "lm_head").log_softmax(dim=1)

    def given(self, tokens: Sequence[int]) -> list[float]:
        """Return the log probability of each token except the first, after those before it."""
        return of_tokens(self.logprobs(tokens), tokens)

    def scaled(self, factor: float) -> Llama:
        """Return the model whose attention scale is multiplied by a factor."""
        names = [name for name in self.weights if name.endswith("q_proj.weight")]
        return Llama(self.config, self.weights | {name: self.weights[name] * factor for name in names})

    def _linear(self, values: Tensor, name: str) -> Tensor:
        return values @ self.weights[f"{name}.weight"].T

    def _norm(self, values: Tensor, name: str) -> Tensor:
        scale = (values.square().mean(dim=1, keepdim=True) + self.config["rms_norm_eps"]).rsqrt()
        return values * scale * self.weights[f"{name}.weight"]

    def _mlp(self, values: Tensor, stem: str) -> Tensor:
        gate = self._linear(values, f"{stem}.gate_proj")
        return self._linear(gate * gate.sigmoid() * self._linear(values, f"{stem}.up_proj"), f"{stem}.down_proj")

    def _attention(self, values: Tensor, stem: str) -> Tensor:
        size = self.config["head_dim"]
        query, key, value = (
            self._linear(values, f"{stem}.{name}_proj").unflatten(1, (-1, size)).transpose(0, 1)[None] for name in "qkv"
        )
        result = attention(self._turned(query), self._turned(key), value, diagonal=0)
        return self._linear(result[0].transpose(0, 1).flatten(1), f"{stem}.o_proj")

    def _turned(self, part: Tensor) -> Tensor:
        """Apply rotary positions: the halves of a head are real and imaginary parts of rotating numbers."""
        half = part.shape[3] // 2
        speeds = self.config["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(part.shape[2], dtype=torch.float64)[:, None] * speeds
        real, imaginary = part[..., :half], part[..., half:]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([real * cos - imaginary * sin, imaginary * cos + real * sin], dim=3)


def of_tokens(rows: Tensor, tokens: Sequence[int]) -> list[float]:
    """Return the log probability of each token except the first, from the rows of `Llama.logprobs`."""
    found: list[float] = rows[:-1].gather(1, torch.tensor(list(tokens[1:]))[:, None])[:, 0].tolist()
    return found


def use_one_thread() -> None:
    """Compute in one thread in this process: the products are too small to share.

    On 2 cores with 15 busy programs, 700 tokens took 0.5 s of CPU time with one thread, 7.5 s with two, which wait for each other.
    """
    torch.set_num_threads(1)


def load(folder: Path) -> Llama:
    """Read config.json and model.safetensors of the built-in model.

    Raises OSError, and ValueError for damaged weights.
    """
    path = folder / "model.safetensors"
    try:
        found = load_file(path)
    except SafetensorError as damage:
        raise ValueError(f"{path} cannot be read: {damage}") from None
    config = json.loads((folder / "config.json").read_text())
    return Llama(config, {name: part.double() for name, part in found.items()})
