"""`verify upgrade`: a model with the same results is upgraded, measured and written; one that differs is not."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.verify.in_torch.altered_kernels import Bent
from verify.attention import layers as attention_kernels
from verify.attention.speed import peak
from verify.cli.main import main

MODELS = '''
import torch
from torch import nn

torch.manual_seed(2)


def encoder(batch_first=True):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (torch.randn(2, 9, 32),)


class Named(nn.Module):
    """Wants its mask by name, returns a mapping, embeds whole numbers."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.idle = nn.MultiheadAttention(32, 4)

    def forward(self, tokens, *, hidden):
        inputs = self.embed(tokens)
        return {"logits": self.attention(inputs, inputs, inputs, attn_mask=hidden, need_weights=False)[0]}


def named():
    return Named(), {"tokens": torch.arange(12).view(2, 6) % 11, "hidden": torch.ones(6, 6).triu(1).bool()}


class Own(nn.Module):
    """Builds its attention itself."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.head = nn.Linear(32, 32)

    def forward(self, inputs):
        return self.head(self.attention(inputs, inputs, inputs, need_weights=False)[0])


def own():
    return Own(), (torch.randn(2, 9, 32),)


def frozen():
    model, inputs = own()
    return model.requires_grad_(False), inputs


def half_frozen():
    model, inputs = own()
    model.attention.requires_grad_(False)
    return model, inputs


class Curious(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, inputs):
        return self.attention(inputs, inputs, inputs)


def curious():
    return Curious(), [torch.randn(2, 5, 32)]


class Keeper(Curious):
    def forward(self, inputs):
        output, self.weights = super().forward(inputs)
        return output


def keeper():
    return Keeper(), [torch.randn(2, 5, 32)]


class Looker(Curious):
    """Looks at its weights in training only, and hides an error."""

    def forward(self, inputs):
        output, weights = super().forward(inputs)
        try:
            return output * weights.mean() if self.training else output
        except Exception:
            return output


def looker():
    return Looker(), [torch.randn(2, 5, 32)]


class HalfCurious(nn.Module):
    def __init__(self):
        super().__init__()
        self.unread = nn.MultiheadAttention(32, 4)
        self.read = nn.MultiheadAttention(32, 4)

    def forward(self, inputs):
        inputs, _ = self.unread(inputs, inputs, inputs)
        inputs, weights = self.read(inputs, inputs, inputs)
        return inputs * weights.max()


def half_curious():
    return HalfCurious(), [torch.randn(5, 2, 32)]


class Dummy(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(768, 12)

    def forward(self, x):
        attn_out, _ = self.attention(x, x, x)
        return attn_out


def dummy():
    return Dummy(), (torch.randn(16, 2, 768),)


def linear():
    return nn.Linear(3, 3), (torch.randn(1, 3),)


def nothing():
    return None


def misshapen():
    return nn.Linear(3, 3), 7


def broken():
    raise FileNotFoundError("weights.pt")


def mismatched():
    return nn.TransformerEncoderLayer(32, 4, 64), (torch.randn(2, 9, 31),)
'''


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("my_models", "my_models_flash"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def upgrade(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["upgrade", "--json", "--device", "cpu", *arguments])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_upgraded_encoder_gives_the_same_results(capsys: pytest.CaptureFixture[str], dtype: str) -> None:
    code, document = upgrade(capsys, "my_models:encoder", "--dtype", dtype)
    assert (code, document["status"]) == (0, "ok")
    assert document["upgraded"] == ["layers.0.self_attn", "layers.1.self_attn"]
    assert set(document["evidence"]["kernels"].values()) == {"sdpa"}
    # the output, twelve parameters in each of two layers, and both attentions
    assert len(document["evidence"]["compared"]) == 1 + 24 + 2
    names = [figure["name"] for figure in document["figures"]]
    assert names[2:] == [
        f"{what}, {side}"
        for what in ("forward", "forward and backward", "peak memory")
        for side in ("original", "upgraded")
    ]
    assert [layer.pop("name") for layer in document["layers"]] == document["upgraded"]
    assert all(value > 0 for layer in document["layers"] for name, value in layer.items() if not name.endswith("error"))
    assert [figure for figure in document["figures"] if not figure["value"] > 0] == []


def mutated(change: Callable[[Any], Any]) -> Any:
    whole = attention_kernels.attend

    def wrong(*tensors: Any, **options: Any) -> Any:
        result, used = whole(*tensors, **options)
        return change(result), used

    return wrong


@pytest.mark.parametrize(
    ("asked", "factor", "words"),
    [
        ("encoder --dtype float32", 1.01, "differs from the original"),
        ("encoder --dtype bfloat16", 1.03, "differs from the original"),
        ("frozen", 1.01, "layer attention"),
        ("own --write", 1.01, "differs from the original"),
    ],
)
def test_a_model_that_is_wrong_by_a_hundredth_is_refused_and_not_written(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    asked: str,
    factor: float,
    words: str,
) -> None:
    monkeypatch.setattr(attention_kernels, "attend", mutated(lambda result: result * factor))
    code, document = upgrade(capsys, *f"my_models:{asked}".split())
    assert (code, document["status"], document["written"]) == (2, "fail", None)
    assert words in document["reason"]
    assert not (tmp_path / "my_models_flash.py").exists()


def test_a_wrong_gradient_alone_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_kernels, "attend", mutated(Bent.apply))
    code, document = upgrade(capsys, "my_models:encoder")
    assert (code, "gradient of layers." in document["reason"]) == (2, True)


def test_layers_that_are_never_called_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = upgrade(capsys, "my_models:named")
    assert (code, document["reason"]) == (1, "never called, so not compared: idle")
    assert document["evidence"]["kernels"] == {"attention": "sdpa", "idle": None}


@pytest.mark.parametrize("model", ["curious", "keeper", "looker"])
def test_a_model_that_reads_its_weights_gains_nothing_and_is_not_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    code, document = upgrade(capsys, f"my_models:{model}", "--write")
    assert (code, document["reason"]) == (
        1, "the model reads the weights of every attention, which flash kernels cannot return: nothing is faster"
    )  # fmt: skip
    assert document["written"] is None
    assert [path.name for path in tmp_path.glob("*.p*")] == ["my_models.py"]


def test_one_command_upgrades_a_model_that_discards_its_weights(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, document = upgrade(capsys, "my_models:dummy", "--write")
    assert (code, document["evidence"]["kernels"]) == (0, {"attention": "sdpa"})
    assert "FlashMultiheadAttention.without_weights(768, 12)" in (tmp_path / "my_models_flash.py").read_text()
    assert upgrade(capsys, "my_models:dummy")[0] == 0


def test_layers_whose_weights_are_read_keep_them(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = upgrade(capsys, "my_models:half_curious")
    assert (code, document["evidence"]["kernels"]) == (0, {"read": "torch", "unread": "sdpa"})


@pytest.mark.parametrize(
    ("model", "compared"),
    [
        ("frozen", ["output", "layer attention"]),
        ("half_frozen", ["output", "gradient of head.weight", "gradient of head.bias", "layer attention"]),
    ],
)
def test_gradients_are_compared_where_they_are_required(
    capsys: pytest.CaptureFixture[str], model: str, compared: list[str]
) -> None:
    code, document = upgrade(capsys, f"my_models:{model}")
    assert (code, document["evidence"]["compared"]) == (0, compared)
    assert ("forward and backward, original" in str(document["figures"])) is (model != "frozen")


@pytest.mark.parametrize("name", ["my_models:own", "my_models.py:own", "./my_models.py:frozen"])
def test_the_upgraded_module_is_written_next_to_the_original_and_builds_the_same_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    original = (tmp_path / "my_models.py").read_text()
    code, document = upgrade(capsys, name, "--diff")
    assert (code, document["written"]) == (0, None)
    assert "+        self.attention = FlashMultiheadAttention(32, 4, batch_first=True)\n" in document["difference"]
    assert {path.name for path in tmp_path.glob("*.py")} == {"my_models.py"}
    code, document = upgrade(capsys, name, "--write")
    assert (code, document["written"]) == (0, str(tmp_path / "my_models_flash.py"))
    assert (tmp_path / "my_models.py").read_text() == original
    assert main(["upgrade", "--device", "cpu", f"my_models_flash:{name.rpartition(':')[2]}"]) == 3
    assert "the model holds no torch.nn.MultiheadAttention" in capsys.readouterr().err


def test_an_existing_file_is_not_overwritten(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "my_models_flash.py").write_text("mine = 1\n")
    assert main(["upgrade", "--device", "cpu", "my_models:own", "--write"]) == 3
    assert "my_models_flash.py exists and holds something else" in capsys.readouterr().err
    assert (tmp_path / "my_models_flash.py").read_text() == "mine = 1\n"


def test_attention_built_by_another_library_is_not_edited(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upgrade", "--device", "cpu", "my_models:encoder", "--write"]) == 3
    printed = capsys.readouterr().err
    assert "my_models.py does not build layers.0.self_attn, layers.1.self_attn itself" in printed
    assert "call upgrade_attention(model) where the model is built" in printed


def test_the_text_shows_both_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upgrade", "--device", "cpu", "my_models:encoder"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "upgraded 2 modules, computed by sdpa"
    assert [line.split("  ")[0] for line in lines[2:-1]] == [
        "forward",
        "forward and backward",
        "peak memory",
        "layer, original and upgraded",
        "layers.0.self_attn",
        "layers.1.self_attn",
    ]
    assert lines[-1] == "not written"
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my_models", "`my_models` is not MODULE:FACTORY or FILE.py:FACTORY"),
        ("my_models:absent", "`my_models:absent` cannot be imported: module 'my_models' has no attribute 'absent'"),
        ("no_such_module:make", "`no_such_module:make` cannot be imported: No module named 'no_such_module'"),
        ("my_models:linear", "the model holds no torch.nn.MultiheadAttention"),
        ("my_models:nothing", "`my_models:nothing` returned NoneType, not a model and its inputs"),
        ("my_models:misshapen", "returned inputs of type int: give a tuple or a mapping"),
    ],
)
def test_a_model_that_cannot_be_upgraded_is_an_error_with_a_hint(
    capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    assert main(["upgrade", name]) == 3
    printed = capsys.readouterr()
    assert words in printed.err
    assert "hint: FACTORY takes nothing and returns (model, inputs)" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["my_models:broken"], "the model could not be compared: FileNotFoundError: weights.pt"),
        (["my_models:mismatched"], "the model could not be compared: "),
        (["half_written:make"], "the model could not be compared: SyntaxError: "),
        (["--device", "gpu", "my_models:encoder"], "the model could not be compared: RuntimeError: "),
    ],
)
def test_a_failure_during_the_comparison_is_an_error_and_no_verdict(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "half_written.py").write_text("def make(:")
    assert main(["upgrade", "--device", "cpu", *arguments]) == 3
    printed = capsys.readouterr()
    assert f"error: {words}" in printed.err
    assert "hint: " in printed.err
    assert printed.out == ""


def test_a_wrong_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["upgrade", "--dtype", "int8", "my_models:encoder"])
    assert end.value.code == 64
    assert "hint: verify upgrade --help" in capsys.readouterr().err


def test_garbage_of_earlier_work_does_not_hide_the_memory_of_the_next() -> None:
    def leave_a_cycle() -> None:
        garbage: list[object] = [torch.zeros(1 << 20)]
        garbage.append(garbage)

    def work() -> torch.Tensor:
        kept = torch.zeros(1 << 12)
        gc.collect()
        return kept + 1

    gc.disable()  # the cycle must still be there when the work begins
    try:
        peak(leave_a_cycle, "cpu")
        assert peak(work, "cpu") >= 2 * 4 << 12
    finally:
        gc.enable()
