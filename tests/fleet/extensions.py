"""Run by an environment's own Python: opens each extension of the packages that compute, and prints each result as JSON.

Each is opened in a process of its own that has loaded torch: a crash ends only that process, and none hides what another lacks.
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
"""Packages with extensions that only their own import opens."""


def extensions() -> dict[str, str]:
    """Return the path of each shared library of the packages by name, without those that another library opens."""
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
    """Return how a call ended in a child process: an empty text, or its error."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            action(argument)
            os.write(writer, b"")
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - sent to the parent
            os.write(writer, f"{type(error).__name__}: {error}".encode()[:2000])
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, errors="replace") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return text or (f"ended with {code}" if code else "")


def main() -> None:
    installed = [name for name in IMPORTS if importlib.util.find_spec(name.partition(".")[0])]
    outcome = {name: attempt(ctypes.CDLL, path) for name, path in extensions().items()}
    outcome |= {name: attempt(importlib.import_module, name) for name in installed}
    json.dump({"torch": torch.__version__, "cuda": torch.version.cuda, "outcome": outcome}, sys.stdout)


main()
