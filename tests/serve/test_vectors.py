"""What the files of a model say of its vectors, and where its reference is left out. vLLM's tests compute real ones (tests/verify/in_vllm)."""

import json
from pathlib import Path
from typing import Any

import pytest

from provision.phases.serve.onhost import vectors
from provision.phases.serve.onhost.vectors import UnknownError, activation_of, pooling_of, reference_of, require_known


def write(folder: Path, layers: tuple[str, ...], **modes: object) -> Path:
    """Write what sentence-transformers says of a model with these layers after its transformer."""
    modules = [
        {"path": f"{number}_{name}", "type": f"sentence_transformers.models.{name}"}
        for number, name in enumerate(("Transformer", *layers))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 8, **modes}))
    return folder


@pytest.mark.parametrize(
    ("layers", "modes", "expected"),
    [
        (("Pooling",), {"pooling_mode_cls_token": True}, ("cls", False)),
        (("Pooling",), {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, ("mean", False)),
        (("Pooling", "Normalize"), {"pooling_mode_lasttoken": True, "include_prompt": True}, ("last", True)),
        (("Pooling", "Normalize"), {"pooling_mode": "mean", "include_prompt": True}, ("mean", True)),
    ],
)
def test_the_files_say_how_vectors_are_pooled(
    tmp_path: Path, layers: tuple[str, ...], modes: dict[str, Any], expected: tuple[str, bool]
) -> None:
    assert pooling_of(write(tmp_path, layers, **modes), "bert") == expected


@pytest.mark.parametrize(
    ("layers", "modes", "words"),
    [
        (("Pooling", "Dense"), {"pooling_mode_mean_tokens": True}, "a layer `Dense`"),
        (("Pooling",), {"pooling_mode_mean_sqrt_len_tokens": True}, "pools by `mean_sqrt_len`"),
        (("Pooling",), {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "by `cls, mean`"),
        ((), {}, "pools by `nothing`"),
    ],
)
def test_other_ways_are_not_computed(
    tmp_path: Path, layers: tuple[str, ...], modes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnknownError, match=words):
        pooling_of(write(tmp_path, layers, **modes), "bert")


@pytest.mark.parametrize(("kind", "mode"), [("bert", "cls"), ("qwen3", "last")])
def test_without_such_files_vllm_has_a_default(tmp_path: Path, kind: str, mode: str) -> None:
    assert pooling_of(tmp_path, kind) == (mode, True)


@pytest.mark.parametrize(
    ("config", "task", "words"),
    [
        ({"model_type": "new"}, "embed", "the model is `new`"),
        ({"model_type": "qwen3"}, "score", "the model is `qwen3`"),
        ({"model_type": "bert", "auto_map": {"AutoModel": "x"}}, "embed", "has `auto_map`"),
        ({"model_type": "bert", "quantization_config": {"a": 1}}, "embed", "has `quantization_config`"),
        ({"model_type": "qwen2", "is_causal": False}, "embed", "which tokens see which"),
    ],
)
def test_models_that_are_computed_otherwise_have_no_reference(
    tmp_path: Path, config: dict[str, Any], task: str, words: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = reference_of(tmp_path, task, None)
    assert (found["vectors"], found["inputs"]) == (None, vectors.INPUTS[task])
    assert words in found["unknown"]


def test_a_model_that_is_too_large_has_no_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(bytes(2 << 20))
    monkeypatch.setattr(vectors, "available_mib", lambda: 8)
    require_known(tmp_path, "embed")
    monkeypatch.setattr(vectors, "available_mib", lambda: 7)
    with pytest.raises(UnknownError, match="up to 4 MiB in float32; 7 MiB are free"):
        require_known(tmp_path, "embed")


@pytest.mark.parametrize(
    ("config", "activation"),
    [
        ({}, "Sigmoid"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, "Identity"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, "Sigmoid"),
        ({"problem_type": "regression"}, "Identity"),
    ],
)
def test_the_files_say_what_becomes_of_a_score(config: dict[str, Any], activation: str) -> None:
    assert activation_of(config) == activation


def test_another_activation_is_not_computed() -> None:
    with pytest.raises(UnknownError, match="`Tanh`"):
        activation_of({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"})
