"""The Llama architecture in float64, as it is written down: what an engine's answers are measured against."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify.reference import attention

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""As safetensors names them."""


@dataclass(frozen=True)
class Llama:
    """A model in memory; `weights` are float64, by the names that transformers gives them."""

    config: dict[str, Any]
    weights: dict[str, Tensor]

    def logprobs(self, tokens: Sequence[int]) -> Tensor:
        """(tokens, vocabulary): the log probabilities of each next token."""
        import torch

        hidden = self.weights["model.embed_tokens.weight"][torch.tensor(list(tokens))]
        for layer in range(self.config["num_hidden_layers"]):
            stem = f"model.layers.{layer}"
            hidden = hidden + self._attention(self._norm(hidden, f"{stem}.input_layernorm"), f"{stem}.self_attn")
            hidden = hidden + self._mlp(self._norm(hidden, f"{stem}.post_attention_layernorm"), f"{stem}.mlp")
        return self._linear(self._norm(hidden, "model.norm"), "lm_head").log_softmax(dim=1)

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
        """With rotary positions: the two halves of a head are the real and imaginary parts of numbers that turn."""
        import torch

        half = part.shape[3] // 2
        speeds = self.config["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(part.shape[2], dtype=torch.float64)[:, None] * speeds
        real, imaginary = part[..., :half], part[..., half:]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([real * cos - imaginary * sin, imaginary * cos + real * sin], dim=3)


def tiny() -> Llama:
    """A model of random weights, the same everywhere: two layers, sixteen wide, 64 tokens."""
    import torch

    config = {
        "vocab_size": 64,
        "num_hidden_layers": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
    }
    shapes = {"model.embed_tokens": (64, 16), "model.norm": (16,), "lm_head": (64, 16)}
    for layer in range(2):
        stem = f"model.layers.{layer}"
        shapes |= {f"{stem}.{name}_layernorm": (16,) for name in ("input", "post_attention")}
        shapes |= {f"{stem}.self_attn.{name}_proj": (width, 16) for name, width in (("q", 16), ("k", 8), ("v", 8))}
        shapes |= {f"{stem}.self_attn.o_proj": (16, 16), f"{stem}.mlp.down_proj": (16, 24)}
        shapes |= {f"{stem}.mlp.{name}_proj": (24, 16) for name in ("gate", "up")}
    generator = torch.Generator().manual_seed(61)
    weights = {
        f"{name}.weight": torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()
    }
    return Llama(config, weights)


def load(folder: Path) -> Llama:
    """From config.json and model.safetensors. Raises OSError and ValueError, the latter for another architecture."""
    import torch

    config = json.loads((folder / "config.json").read_text())
    if config.get("architectures") != ["LlamaForCausalLM"] or config.get("rope_scaling"):
        raise ValueError(f"{folder} holds {config.get('architectures')}, not a plain Llama")
    if "head_dim" not in config:
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    content = bytearray((folder / "model.safetensors").read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    weights = {}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            dtype = getattr(torch, DTYPES[entry["dtype"]])
            begin, count = start + entry["data_offsets"][0], math.prod(entry["shape"])
            flat = torch.frombuffer(content, dtype=dtype, count=count, offset=begin)
            weights[name] = flat.view(entry["shape"]).double()
    return Llama(config, weights)
