"""`verify upgrade --write`: the source of a module with its attention upgraded."""

from pathlib import Path

import pytest

from verify.models.source import IMPORT, beside, difference, upgraded_source


@pytest.mark.parametrize(
    ("imported", "called"),
    [
        ("import torch\n", "torch.nn.MultiheadAttention"),
        ("from torch import nn\n", "nn.MultiheadAttention"),
        ("import torch.nn as layers\n", "layers.MultiheadAttention"),
        ("from torch.nn import MultiheadAttention as Attention\n", "Attention"),
    ],
)
def test_calls_that_build_an_attention_build_the_upgraded_one(imported: str, called: str) -> None:
    text = f"{imported}\n\ndef make():\n    größe = 8; return {called}(größe, 2), {called}(4, 2)\n"
    assert upgraded_source(text) == (
        f"{imported}{IMPORT}\n\ndef make():\n    größe = 8; return FlashMultiheadAttention(größe, 2), FlashMultiheadAttention(4, 2)\n"
    )


def test_calls_whose_weights_nobody_reads_build_one_without_weights() -> None:
    text = "from torch import nn\n\nlayer = nn.MultiheadAttention(\n    8,  # width\n    2,\n)\n"
    assert upgraded_source(text, discard_weights=True) == text.replace(
        "nn.MultiheadAttention", "FlashMultiheadAttention.without_weights"
    ).replace("nn\n", f"nn\n{IMPORT}", 1)


@pytest.mark.parametrize("heading", ["", '"""A model."""\n'])
def test_a_module_that_imports_in_its_functions_alone_imports_the_upgraded_one_first(heading: str) -> None:
    text = "def make():\n    from torch import nn\n    return nn.MultiheadAttention(8, 2)\n"
    assert upgraded_source(heading + text) == f"{heading}{IMPORT}{text.replace('nn.Multi', 'FlashMulti')}"


@pytest.mark.parametrize(
    "text",
    [
        "from torch import nn\n\nclass Special(nn.MultiheadAttention):\n    pass\n",
        "from other import nn\n\nnn.MultiheadAttention(8, 2)\n",
        "from torch import nn\n\nisinstance(1, nn.MultiheadAttention)\n",
        "from . import nn\n\nnn.MultiheadAttention(8, 2)\n",
    ],
    ids=["base class", "another package", "a comparison", "a module of the package"],
)
def test_all_other_source_stays_unchanged(text: str) -> None:
    assert upgraded_source(text) == text


def test_the_difference_names_both_files(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text("a = 1\n")
    assert beside(path).name == "model_flash.py"
    assert difference(path, "a = 2\n").splitlines() == [
        f"--- {path}", f"+++ {tmp_path / 'model_flash.py'}", "@@ -1 +1 @@", "-a = 1", "+a = 2",
    ]  # fmt: skip
