"""The plugin inside an engine: small packages replace vLLM, with the attention layers laid out as in its releases."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

PLUGIN = Path(__file__).parents[2] / "provision/phases/serve/plugin"

BACKEND = """
def flash_attn_varlen_func(): ...
flash_attn_varlen_func.__module__ = "vllm.vllm_flash_attn.flash_attn_interface"
class Impl:
    def __init__(self, generation): self.vllm_flash_attn_version = generation
class Backend:
    @staticmethod
    def get_name(): return "FLASH_ATTN"
"""
LAYER = """
class Attention:
    def __init__(self, prefix, generation=3):
        self.layer_name, self.attn_backend, self.impl = prefix, Backend, Impl(generation)
"""
LAYOUTS = {
    "one module a kind": {
        "vllm/model_executor/layers/attention/attention.py": BACKEND + LAYER,
        "vllm/model_executor/layers/attention/mla_attention.py": BACKEND + LAYER.replace("Attention", "MLAAttention"),
        "vllm/model_executor/layers/attention/__init__.py": "from .attention import Attention\n",
        "vllm/model_executor/layers/__init__.py": "",
        "vllm/model_executor/__init__.py": "",
    },
    "one module": {
        "vllm/attention/layer.py": BACKEND + LAYER + LAYER.replace("Attention", "MLAAttention"),
        "vllm/attention/__init__.py": "from vllm.attention.layer import Attention\n",
    },
    "backend as an enumeration": {
        "vllm/attention/layer.py": "import enum\nBackends = enum.Enum('Backends', 'FLASH_ATTN')\n"
        + BACKEND
        + LAYER.replace("self.attn_backend,", "self.backend,").replace("Backend, Impl", "Backends.FLASH_ATTN, Impl"),
        "vllm/attention/__init__.py": "",
    },
}
IMPORTS = {"one module a kind": "from vllm.model_executor.layers.attention import Attention"}
"""Where models get their layers; elsewhere from `vllm.attention.layer`."""
REGISTER = "import firstlight_attention; firstlight_attention.register()"

Engine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """Return a function that runs code in a new process, in which a vLLM of that layout was imported after the plugin."""

    def run(
        code: str,
        layout: str = "one module",
        *,
        start: Sequence[str] | None = None,
        proofs: Path | None = tmp_path / "run",
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        start = [REGISTER, import_of(layout)] if start is None else start
        files = {"vllm/__init__.py": "__version__ = '0.26.0'\n", **LAYOUTS[layout]}
        for name, text in files.items():
            path = tmp_path / "lib" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if proofs is not None:
            environment["FIRSTLIGHT_PROOF_DIR"] = str(proofs)
        return subprocess.run(
            [sys.executable, "-c", "\n".join([*start, textwrap.dedent(code)])],
            env={"PYTHONPATH": f"{tmp_path / 'lib'}:{PLUGIN}", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def import_of(layout: str) -> str:
    return IMPORTS.get(layout, "from vllm.attention.layer import Attention, Backend")


def proofs(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("loaded_first", [False, True], ids=["then-imported", "already-imported"])
def test_each_layer_is_recorded_with_its_backend(
    engine: Engine, tmp_path: Path, layout: str, loaded_first: bool
) -> None:
    start = [REGISTER, import_of(layout)]
    code = "Attention('layers.0'); Attention('layers.1', 2)"
    done = engine(code, layout, start=start[::-1] if loaded_first else start)
    assert done.returncode == 0, done.stderr
    (proof,) = proofs(tmp_path / "run")
    assert [(layer["name"], layer["backend"], layer["flash_attention_version"]) for layer in proof["layers"]] == [
        ("layers.0", "FLASH_ATTN", 3),
        ("layers.1", "FLASH_ATTN", 2),
    ]
    assert proof["layers"][0]["implementation"].endswith(".Impl")
    assert proof["layers"][0]["flash_functions"] == "vllm.vllm_flash_attn.flash_attn_interface"
    assert (proof["problem"], proof["vllm"]) == (None, "0.26.0")


REGISTRY = """
import enum
class AttentionBackendEnum(enum.Enum):
    FLASH_ATTN = "vllm.v1.attention.backends.flash_attn.FlashAttentionBackend"
    ROCM_AITER_FA = "vllm.attention.layer.Backend"
    CUSTOM = ""
"""


def test_a_backend_is_recorded_under_the_name_with_which_it_is_asked_for(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = ("vllm/v1", "vllm/v1/attention", "vllm/v1/attention/backends")
    modules = {f"{part}/__init__.py": "" for part in parts}
    modules["vllm/v1/attention/backends/registry.py"] = REGISTRY
    monkeypatch.setitem(LAYOUTS, "with a registry", LAYOUTS["one module"] | modules)
    code = """
    import vllm.v1.attention.backends.registry
    Attention("layers.0")
    class Composed(Backend): pass
    layer = Attention.__new__(Attention)
    layer.attn_backend = Composed
    print(firstlight_attention.backend_name(layer))
    """
    done = engine(code, "with a registry")
    (proof,) = proofs(tmp_path / "run")
    assert ([layer["backend"] for layer in proof["layers"]], done.stdout) == (["ROCM_AITER_FA"], "ROCM_AITER_FA\n")


def test_the_switches_of_kernels_on_amd_cards_are_recorded(engine: Engine, tmp_path: Path) -> None:
    engine("", VLLM_ROCM_USE_AITER="1", VLLM_ROCM_USE_AITER_MHA="1", VLLM_API_KEY="secret")
    (proof,) = proofs(tmp_path / "run")
    assert proof["variables"] == {"VLLM_ROCM_USE_AITER": "1", "VLLM_ROCM_USE_AITER_MHA": "1"}


def test_a_subclass_is_recorded_once_under_its_own_kind(engine: Engine, tmp_path: Path) -> None:
    code = """
    firstlight_attention.register()
    class ChunkedLocalAttention(Attention):
        def __init__(self, prefix): super().__init__(prefix)
    ChunkedLocalAttention('layers.0')
    """
    engine(code)
    (proof,) = proofs(tmp_path / "run")
    assert [layer["kind"] for layer in proof["layers"]] == ["ChunkedLocalAttention"]


def test_a_process_without_layers_is_recorded(engine: Engine, tmp_path: Path) -> None:
    engine("", start=[REGISTER])
    (proof,) = proofs(tmp_path / "run")
    assert proof["layers"] == []
    assert (tmp_path / f"run/attention-{proof['pid']}.json").exists()


def test_nothing_happens_without_a_folder(engine: Engine, tmp_path: Path) -> None:
    code = "import sys, firstlight_attention; n = len(sys.meta_path); firstlight_attention.register(); assert len(sys.meta_path) == n"
    done = engine(code, start=[], proofs=None)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run").exists()


def test_the_engine_continues_if_the_folder_cannot_be_written(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = engine("print(Attention('layers.0').layer_name)", proofs=tmp_path / "file" / "run")
    assert (done.returncode, done.stdout) == (0, "layers.0\n")
    assert "cannot write the evidence" in done.stderr


def test_the_engine_continues_if_a_layer_cannot_be_described_and_the_reason_is_written(
    engine: Engine, tmp_path: Path
) -> None:
    code = """
    def broken(): raise RuntimeError("no name today")
    Backend.get_name = staticmethod(broken)
    print(Attention('layers.0').layer_name)
    """
    done = engine(code)
    assert (done.returncode, done.stdout) == (0, "layers.0\n")
    assert "no name today" in proofs(tmp_path / "run")[0]["problem"]


def test_a_forked_child_records_only_its_own_layers(engine: Engine, tmp_path: Path) -> None:
    code = """
    import os
    Attention('parent')
    if os.fork() == 0:
        Attention('child'); os._exit(0)
    os.wait()
    """
    engine(code)
    assert sorted(layer["name"] for proof in proofs(tmp_path / "run") for layer in proof["layers"]) == [
        "child",
        "parent",
    ]
    assert len(proofs(tmp_path / "run")) == 2


def test_an_error_in_a_layer_reaches_the_engine_unchanged(engine: Engine) -> None:
    done = engine("Attention()")
    assert "TypeError" in done.stderr
    assert done.returncode == 1
