"""Run by a set's own Python: load torch, every extension module of the packages that compute, and the engine's configuration.

    python -IB load_set.py DISTRIBUTION PLATFORM      DISTRIBUTION of vLLM, PLATFORM cuda or cpu

It has only the standard library of that Python. Each step is printed before it is tried, so that a crash has a name as well; the last
line lists the loaded modules as JSON.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import mmap
import re
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

PACKAGES = (
    "triton",
    "xformers",
    "flashinfer-python",
    "flashinfer-cubin",
    "flashinfer-jit-cache",
    "tokenizers",
    "safetensors",
    "xgrammar",
    "llguidance",
    "outlines-core",
    "numpy",
)
"""Packages whose extensions are loaded after torch and vLLM: all between a request and a kernel."""
IMPORTED = ("torchvision", "torchaudio", "flashinfer", "xformers.ops")
"""Packages that load their own extensions when they need them."""
SUFFIX = re.compile(r"(\.abi3|\.cpython-\d+[\w-]*)?\.so$")


def steps(vllm: str) -> list[tuple[str, Path]]:
    """Return (distribution, extension file) pairs from the lists of installed files."""
    found = []
    for package in (vllm, *PACKAGES):
        try:
            listed = files(package) or []
        except PackageNotFoundError:
            continue
        found += [(package, Path(str(file.locate()))) for file in sorted(listed, key=str) if str(file).endswith(".so")]
    return found


def module_of(path: Path) -> str | None:
    """Return the dotted name of a Python extension; None for a library that is opened, not imported."""
    stem = SUFFIX.sub("", path.name)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(f"PyInit_{stem}".encode()) < 0:
            return None
    root = next((folder for folder in path.parents if folder.name in {"site-packages", "dist-packages"}), path.parent)
    return ".".join((*path.parent.relative_to(root).parts, stem))


def pretend_card() -> None:
    """Give vLLM the platform of an H100: without a card it finds none and refuses its own options."""
    platforms, cuda = importlib.import_module("vllm.platforms"), importlib.import_module("vllm.platforms.cuda")
    capability = importlib.import_module("vllm.platforms.interface").DeviceCapability(9, 0)
    values = {
        "get_device_capability": capability,
        "get_device_name": "NVIDIA H100",
        "get_device_total_memory": 80 << 30,
    }
    answers = {name: classmethod(lambda *_, value=value, **__: value) for name, value in values.items()}
    vars(platforms)["_current_platform"] = type("Card", (cuda.CudaPlatform,), answers)()


def serve_help() -> None:
    """Run `vllm serve --help` in this process as its program does; most of the time is for imports."""
    cli = importlib.import_module("vllm.entrypoints.cli.main")
    sys.argv = ["vllm", "serve", "--help"]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    distribution, platform = sys.argv[1:]
    loaded: dict[str, list[str]] = {}
    say("import torch")
    torch = importlib.import_module("torch")
    for package, path in steps(distribution):
        name = module_of(path)
        if name is None and (path.name.startswith("lib") or package in {"triton", "numpy"}):
            continue  # a library that an extension beside it links to
        say(f"load {package}: {name or path.name}")
        if name:
            importlib.import_module(name)
        else:
            ctypes.CDLL(str(path))
        loaded.setdefault(package, []).append(name or path.name)
    for package in IMPORTED:
        if importlib.util.find_spec(package.partition(".")[0]):
            say(f"import {package}")
            importlib.import_module(package)
    if platform == "cuda":
        say("import vllm.platforms.cuda")
        pretend_card()
    say("import vllm.engine.arg_utils")
    importlib.import_module("vllm.engine.arg_utils")
    say("run vllm serve --help")
    serve_help()
    say(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "loaded": loaded}))


if __name__ == "__main__":
    main()
