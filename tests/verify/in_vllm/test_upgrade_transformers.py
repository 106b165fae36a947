"""`verify upgrade` of models of transformers: another implementation of their attention is proven for each layer, or refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers.modeling_utils import AttentionInterface

from verify.cli.main import main

MODELS = """
import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, LlamaConfig, Qwen3Config

SMALL = dict(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8,
)


def tokens():
    drawn = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(1))
    seen = torch.ones_like(drawn)
    seen[1, 7:] = 0
    return {"input_ids": drawn, "attention_mask": seen}


def llama():
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(LlamaConfig(**SMALL), attn_implementation="eager"), tokens()


def without_mask():
    return llama()[0], (tokens()["input_ids"],)


def sliding():
    torch.manual_seed(4)
    config = Qwen3Config(**SMALL, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    model = AutoModelForCausalLM.from_config(config)
    model.set_attn_implementation("eager")
    return model, {"input_ids": tokens()["input_ids"]}


def bert():
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    return AutoModel.from_config(config, attn_implementation="eager"), tokens()


def current():
    return AutoModelForCausalLM.from_config(LlamaConfig(**SMALL), attn_implementation="sdpa"), tokens()


def chosen_elsewhere():
    model, inputs = llama()
    name = "ea" + "ger"
    return AutoModelForCausalLM.from_config(model.config, attn_implementation=name), inputs


def storing():
    return llama()[0], {**tokens(), "use_cache": True}
"""
LLAMA = ["model.layers.0.self_attn", "model.layers.1.self_attn"]


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hf_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("hf_models", "hf_models_flash"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture
def functions() -> Iterator[dict[str, Any]]:
    """transformers' own functions by name, restored after the test."""
    mapping = AttentionInterface._global_mapping
    before = dict(mapping)
    yield mapping
    assert mapping.keys() == before.keys()
    mapping.update(before)


def upgrade(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["upgrade", "--json", "--device", "cpu", *arguments])
    printed = capsys.readouterr()
    assert printed.out, printed.err
    return code, json.loads(printed.out)


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        ("llama", LLAMA),
        ("without_mask", LLAMA),
        ("sliding", LLAMA),
        ("bert", ["encoder.layer.0.attention.self", "encoder.layer.1.attention.self"]),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_layer_is_proven(
    capsys: pytest.CaptureFixture[str],
    *,
    functions: dict[str, Any],
    model: str,
    layers: list[str],
    dtype: str,
) -> None:
    before = dict(functions)
    code, document = upgrade(capsys, f"hf_models:{model}", "--dtype", dtype)
    assert (code, document["status"], document["upgraded"]) == (0, "ok", layers), document
    assert set(document["evidence"]["kernels"].values()) == {"sdpa"}
    assert [layer["name"] for layer in document["layers"]] == layers
    assert f"layer {layers[0]}" in document["evidence"]["compared"]
    assert any(what.startswith("gradient of ") for what in document["evidence"]["compared"])
    assert functions == before


def bent(factor: float) -> Any:
    whole = AttentionInterface()["sdpa"]

    def compute(*arguments: Any, **keywords: Any) -> Any:
        output, weights = whole(*arguments, **keywords)
        return output * factor, weights

    return compute


def test_an_implementation_that_is_wrong_by_a_hundredth_is_refused(
    capsys: pytest.CaptureFixture[str], functions: dict[str, Any]
) -> None:
    functions["sdpa"] = bent(1.01)
    code, document = upgrade(capsys, "hf_models:llama")
    assert (code, document["status"]) == (2, "fail")


def test_an_implementation_that_ignores_the_mask_is_refused(
    capsys: pytest.CaptureFixture[str], functions: dict[str, Any]
) -> None:
    whole = AttentionInterface()["sdpa"]
    functions["sdpa"] = lambda module, query, key, value, _mask, **keywords: whole(
        module, query, key, value, None, **keywords
    )
    code, document = upgrade(capsys, "hf_models:bert")
    assert (code, document["status"]) == (2, "fail")
    assert all(layer["error"] > 0.01 > layer["original_error"] for layer in document["layers"])


@pytest.mark.parametrize("name", ["hf_models:llama", "hf_models.py:sliding"])
def test_the_source_with_the_implementation_is_written_next_to_the_original(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    code, document = upgrade(capsys, name, "--diff")
    assert (code, document["written"]) == (0, None)
    assert '+    model.set_attn_implementation("sdpa")\n' in document["difference"]
    assert not (tmp_path / "hf_models_flash.py").exists()
    code, document = upgrade(capsys, name, "--write")
    assert (code, document["written"]) == (0, str(tmp_path / "hf_models_flash.py"))
    written = (tmp_path / "hf_models_flash.py").read_text()
    assert 'LlamaConfig(**SMALL), attn_implementation="sdpa"), tokens()' in written
    assert '"eager"' not in written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hf_models:current"], "the attention of LlamaForCausalLM is `sdpa` already"),
        (["hf_models:current", "--diff"], "the attention of LlamaForCausalLM is `sdpa` already"),
        (["hf_models:llama", "--attention", "flash_attention_2"], "LlamaForCausalLM cannot use `flash_attention_2`: "),
        (["hf_models:chosen_elsewhere", "--write"], "no name in the source chooses the attention `eager`"),
        (["hf_models:storing"], "the inputs hold or ask for stored keys"),
    ],
)
def test_an_upgrade_that_cannot_be_proven_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], words: str
) -> None:
    assert main(["upgrade", "--device", "cpu", *arguments]) == 3
    printed = capsys.readouterr()
    assert (f"error: {words}" in printed.err, printed.out) == (True, ""), printed.err
    assert not (tmp_path / "hf_models_flash.py").exists()
