from pathlib import Path

import pytest

from provision.core.errors import ModelError
from provision.phases.plan.fit.weights import Weights, counted, in_folder
from tests.fit.models import write_model


def test_the_headers_give_the_bytes_of_each_format(tmp_path: Path) -> None:
    tensors = {
        "model.embed_tokens.weight": ("BF16", [128, 64], 2),
        "model.layers.0.mlp.down_proj.weight": ("F8_E4M3", [64, 256], 1),
        "model.layers.0.mlp.down_proj.weight_scale_inv": ("F32", [4, 4], 4),
        "model.layers.2.mlp.down_proj.weight": ("F8_E4M3", [64, 256], 1),
    }
    folder = write_model(tmp_path, {}, tensors)
    assert in_folder(folder).by_dtype == (("F8_E4M3", 2 * 64 * 256), ("BF16", 128 * 64 * 2), ("F32", 64))
    # the layer of a draft model, beyond the model's own, is not loaded
    assert dict(in_folder(folder, layers=2).by_dtype)["F8_E4M3"] == 64 * 256


def test_floats_are_served_in_the_format_of_the_computation() -> None:
    weights = counted({"F32": 4000, "I32": 400, "BF16": 20}, "a test")
    assert weights.as_served(2) == 2000 + 400 + 20
    assert weights.as_served(4) == 4000 + 400 + 40


def test_a_second_copy_in_one_file_does_not_count(tmp_path: Path) -> None:
    folder = write_model(tmp_path, {}, {"a": ("BF16", [10], 2)})
    (folder / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert in_folder(folder).total == 20


def test_pickled_weights_count_by_their_size(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 100)
    assert in_folder(tmp_path) == Weights((("BF16", 100),), "the size of the files")


@pytest.mark.parametrize("content", [b"", b"\x04\0\0\0\0\0\0\0nope", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 64])
def test_a_truncated_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors` is not a safetensors file"):
        in_folder(tmp_path)


def test_weights_truncated_after_the_header_are_named_with_both_sizes(tmp_path: Path) -> None:
    path = write_model(tmp_path, {}, {"a": ("BF16", [1000], 2)}) / "model.safetensors"
    whole = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(whole - 1)
    with pytest.raises(ModelError, match=rf"is truncated: it has {whole - 1} bytes, its tensors end at byte {whole}"):
        in_folder(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="contains no weights"):
        in_folder(tmp_path)
