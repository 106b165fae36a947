"""A small model of a user that has learned something, so that it gives a text a higher probability than guessing.

It has Llama's shape and predicts which byte follows which: embeddings are unit vectors, the layers add nothing, and the last product looks
up the counted pairs. Attention runs, and its output is multiplied by zero. With the files of a model of embeddings, the vector of a text is the
count of each byte in it.
"""

from __future__ import annotations

import json
import math
import random
from array import array
from collections import Counter
from itertools import pairwise
from pathlib import Path

from provision.phases.serve.onhost import builtin_model

SIZE = builtin_model.VOCABULARY
"""Size of the vocabulary and of a hidden state, which has one element for each token."""
LAYERS, HEADS, HEAD_SIZE, INNER = 2, 8, 64, 512
SMOOTHING = 0.05
RANK = 8
"""Of the adapter."""


def write_model(folder: Path, text: str, *, layers: int = LAYERS) -> None:
    """Write the model that counts the pairs of bytes in a text."""
    folder.mkdir()
    config = builtin_model.configuration() | {
        "hidden_size": SIZE,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "torch_dtype": "float32",
    }
    tokenizer = builtin_model.tokenizer()
    tokenizer["model"]["merges"] = []
    files = {
        "config.json": builtin_model.json_bytes(config),
        "tokenizer.json": builtin_model.json_bytes(tokenizer),
        "tokenizer_config.json": builtin_model.json_bytes(builtin_model.TOKENIZER_CONFIGURATION),
        "model.safetensors": _weights(text.encode(), layers),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _weights(text: bytes, layers: int) -> bytes:
    unit = array("f", (float(row == column) for row in range(SIZE) for column in range(SIZE)))
    ones, zeros = array("f", [1.0]) * SIZE, array("f", [0.0]) * (SIZE * SIZE)
    tensors = {"model.embed_tokens.weight": unit, "model.norm.weight": ones, "lm_head.weight": _logits(text)}
    for layer in range(layers):
        stem = f"model.layers.{layer}"
        tensors |= {f"{stem}.{name}_layernorm.weight": ones for name in ("input", "post_attention")}
        tensors |= {f"{stem}.self_attn.{name}_proj.weight": unit for name in "qkv"}
        tensors |= {f"{stem}.{name}_proj.weight": unit for name in ("mlp.gate", "mlp.up")}
        tensors |= {f"{stem}.{name}_proj.weight": zeros for name in ("self_attn.o", "mlp.down")}
    return _safetensors(
        tensors, {name: [SIZE] if len(values) == SIZE else [SIZE, SIZE] for name, values in tensors.items()}
    )


def pool(folder: Path) -> None:
    """Make the model one of embeddings, by files of sentence-transformers; its last product is not used then."""
    names = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    layers = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
        for number, (name, path) in enumerate(names.items())
    ]
    (folder / "modules.json").write_text(json.dumps(layers))
    (folder / "1_Pooling").mkdir()
    modes = {"word_embedding_dimension": SIZE, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(modes))


def vector_of(text: str) -> list[float]:
    """Return the vector of a text, of length 1."""
    counts = Counter(text.encode())
    length = math.hypot(*counts.values())
    return [counts[token] / length for token in range(SIZE)]


def write_adapter(folder: Path) -> None:
    """Write a LoRA adapter of the model, as PEFT writes it: what attention finds counts with it, by random weights."""
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK,
        "bias": "none",
        "target_modules": ["o_proj"],
    }
    draw = random.Random(1)
    shapes = {
        f"base_model.model.model.layers.{layer}.self_attn.o_proj.lora_{side}.weight": shape
        for layer in range(LAYERS)
        for side, shape in (("A", [RANK, HEADS * HEAD_SIZE]), ("B", [SIZE, RANK]))
    }
    tensors = {
        name: array("f", (draw.gauss(0, 0.1) for _ in range(math.prod(shape)))) for name, shape in shapes.items()
    }
    (folder / "adapter_config.json").write_bytes(builtin_model.json_bytes(config))
    (folder / "adapter_model.safetensors").write_bytes(_safetensors(tensors, shapes))


def _safetensors(tensors: dict[str, array[float]], shapes: dict[str, list[int]]) -> bytes:
    header, blocks, at = {}, [], 0
    for name, values in tensors.items():
        block, shape = values.tobytes(), shapes[name]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(block)]}
        blocks.append(block)
        at += len(block)
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + b"".join(blocks)


def _logits(text: bytes) -> array[float]:
    """Return the logit of each token in each row: the logarithm of its count, divided by the length that a norm gives a unit vector."""
    pairs, firsts = Counter(pairwise(text)), Counter(text[:-1])
    return array(
        "f",
        (
            math.log((pairs[first, second] + SMOOTHING) / (firsts[first] + SMOOTHING * SIZE)) / math.sqrt(SIZE)
            for second in range(SIZE)
            for first in range(SIZE)
        ),
    )
