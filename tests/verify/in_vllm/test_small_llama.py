"""The model that answers are compared with: its results, and damage to its files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from verify.serving import small_llama

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "rms_norm_eps": 0.5,
    "rope_theta": 10000.0,
}
"""A tiny model, whose epsilon is large enough to matter."""


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight of the tiny model."""
    hidden, inner, size = (CONFIG[name] for name in ("hidden_size", "intermediate_size", "head_dim"))
    queries, keys = (CONFIG[f"num_{name}_heads"] * size for name in ("attention", "key_value"))
    vocabulary = (CONFIG["vocab_size"], hidden)
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": vocabulary,
        "model.norm": (hidden,),
        "lm_head": vocabulary,
    }
    for layer in range(CONFIG["num_hidden_layers"]):
        stem = f"model.layers.{layer}"
        found |= {f"{stem}.{name}_layernorm": (hidden,) for name in ("input", "post_attention")}
        found |= {
            f"{stem}.self_attn.{name}_proj": (width, hidden)
            for name, width in {"q": queries, "k": keys, "v": keys}.items()
        }
        found |= {f"{stem}.self_attn.o_proj": (hidden, queries), f"{stem}.mlp.down_proj": (hidden, inner)}
        found |= {f"{stem}.mlp.{name}_proj": (inner, hidden) for name in ("gate", "up")}
    return {f"{name}.weight": shape for name, shape in found.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny model with fixed random weights in bfloat16."""
    generator = torch.Generator().manual_seed(61)
    weights = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes().items()}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_the_model_computes_what_transformers_does(folder: Path) -> None:
    """transformers computes norms, angles and the weights of attention in float32."""
    tokens = [3, 17, 3, 9, 0, 11, 63]
    other = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    with torch.inference_mode():
        expected = other(torch.tensor([tokens])).logits[0].log_softmax(dim=1)
    found = small_llama.load(folder).logprobs(tokens)
    assert found.dtype == torch.float64
    assert (found - expected).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("written", "damaged", "text"),
    [
        (b"BF16", b"BF17", "cannot be read: "),
        (b'{"', b'["', "cannot be read: "),
    ],
)
def test_damage_of_the_weights_is_named_with_the_file(folder: Path, written: bytes, damaged: bytes, text: str) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    assert written in content
    path.write_bytes(content.replace(written, damaged, 1))
    with pytest.raises(ValueError, match=re.escape(str(path))) as raised:
        small_llama.load(folder)
    assert text in str(raised.value)


def test_weights_that_are_cut_off_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read: "):
        small_llama.load(folder)
