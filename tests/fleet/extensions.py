"""Run by an environment's own Python: opens each extension of the packages that compute, and prints what became of each as JSON.

Each in a process of its own that has torch already: one that crashes ends itself alone, and none hides what another lacks.
"""

import ctypes
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files

import torch  # type: ignore[import-not-found,unused-ignore]

PACKAGES = ("vllm", "flashinfer-python", "xformers", "flash-attn", "xgrammar")
IMPORTS = ("torchvision", "torchaudio", "flashinfer", "xformers.ops", "flash_attn", "vllm.engine.arg_utils")
"""Some have extensions that only their own import opens."""


def extensions() -> dict[str, str]:
    """Path by name of each shared library of the packages, those aside that others beside them open."""
    found = {}
    for package in PACKAGES:
        try:
            listed = files(package) or []
        except PackageNotFoundError:
            continue
        for file in listed:
            if file.name.endswith(".so") and not file.name.startswith("lib"):
                found[str(file)] = str(file.locate())
    return found


def attempt(action: Callable[[str], object], argument: str) -> str:
    """How a call ended in a child: nothing, or what it said."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            action(argument)
            os.write(writer, b"")
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - told to the parent
            os.write(writer, f"{type(error).__name__}: {error}".encode()[:2000])
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, errors="replace") as said:
        text = said.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return text or (f"ended with {code}" if code else "")


def main() -> None:
    installed = [name for name in IMPORTS if importlib.util.find_spec(name.partition(".")[0])]
    outcome = {name: attempt(ctypes.CDLL, path) for name, path in extensions().items()}
    outcome |= {name: attempt(importlib.import_module, name) for name in installed}
    json.dump({"torch": torch.__version__, "cuda": torch.version.cuda, "outcome": outcome}, sys.stdout)


main()
