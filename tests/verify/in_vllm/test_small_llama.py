"""The model that answers are compared with: its results, and damage to its files."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from verify.serving import small_llama


def tiny() -> small_llama.Llama:
    """Return a model with fixed random weights: two layers, sixteen wide, 64 tokens."""
    config = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
    }
    generator = torch.Generator().manual_seed(61)
    weights = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in small_llama.shapes(config).items()
    }
    return small_llama.Llama(config, weights)


CONFIG = {**tiny().config, "architectures": ["LlamaForCausalLM"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny model as safetensors in bfloat16."""
    save_file({name: weight.bfloat16() for name, weight in tiny().weights.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def one_by_one(model: small_llama.Llama, tokens: list[int]) -> Any:
    """Compute the same model in another way: token by token, with a cache and complex rotations."""
    weights = model.weights
    caches: list[tuple[list[Any], list[Any]]] = [([], []) for _ in range(2)]
    rows = []

    def norm(vector: Any, name: str) -> Any:
        return vector / torch.sqrt((vector * vector).sum() / 16 + 1e-5) * weights[f"{name}.weight"]

    def turned(vector: Any, place: int) -> Any:
        out = vector.clone()
        for pair in range(4):
            angle = place * 10000.0 ** (-pair / 4)
            number = complex(vector[pair], vector[pair + 4]) * complex(math.cos(angle), math.sin(angle))
            out[pair], out[pair + 4] = number.real, number.imag
        return out

    for place, token in enumerate(tokens):
        hidden = weights["model.embed_tokens.weight"][token]
        for layer in range(2):
            stem = f"model.layers.{layer}"
            inner = norm(hidden, f"{stem}.input_layernorm")
            q, k, v = (weights[f"{stem}.self_attn.{name}_proj.weight"] @ inner for name in "qkv")
            caches[layer][0].append([turned(k, place)])
            caches[layer][1].append([v])
            heads = []
            for head in range(2):
                query = turned(q[8 * head : 8 * head + 8], place)
                scores = torch.stack([query @ keys[0] for keys in caches[layer][0]]) / math.sqrt(8)
                share = torch.softmax(scores, 0)
                heads.append(sum(share[i] * values[0] for i, values in enumerate(caches[layer][1])))
            hidden = hidden + weights[f"{stem}.self_attn.o_proj.weight"] @ torch.cat(heads)
            inner = norm(hidden, f"{stem}.post_attention_layernorm")
            gate = weights[f"{stem}.mlp.gate_proj.weight"] @ inner
            up = weights[f"{stem}.mlp.up_proj.weight"] @ inner
            hidden = hidden + weights[f"{stem}.mlp.down_proj.weight"] @ (gate / (1 + torch.exp(-gate)) * up)
        rows.append(torch.log_softmax(weights["lm_head.weight"] @ norm(hidden, "model.norm"), 0))
    return torch.stack(rows)


def test_the_model_on_the_whole_text_equals_the_model_token_by_token(folder: Path) -> None:
    model = small_llama.load(folder)
    tokens = [3, 17, 3, 9, 0, 11, 63]
    assert (model.logprobs(tokens) - one_by_one(model, tokens)).abs().max() < 1e-10


@pytest.mark.parametrize("change", [{"architectures": ["MistralForCausalLM"]}, {"rope_scaling": {"factor": 2.0}}])
def test_another_architecture_is_refused(folder: Path, change: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(ValueError, match="not a plain Llama"):
        small_llama.load(folder)


@pytest.mark.parametrize(
    ("written", "damaged", "text"),
    [
        (b"lm_head.weight", b"lm_heae.weight", "has no tensor `lm_head.weight` of shape [64, 16]"),
        (b"[64,16]", b"[16,64]", "of shape [64, 16]"),
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
