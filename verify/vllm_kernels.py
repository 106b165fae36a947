"""vLLM's own kernels as files, without importing vLLM, which takes seconds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from verify.tables import table


def vllm_extensions() -> list[Path]:
    """Those for this CPU or GPU; none where vLLM is not installed."""
    import torch

    folder = _folder()
    if folder is None:
        return []
    for row in table("libraries")["vllm_kernels"]:
        supported = row["when"] == "always" or getattr(torch.cpu, row["when"], bool)()
        if supported and (found := sorted(folder.glob(row["glob"]))):
            return found
    return []


def further_extensions() -> list[Path]:
    """Those for GPUs that stand next to the others, and need the driver's library."""
    folder = _folder()
    return sorted(folder.glob(table("libraries")["vllm_kernels_next_to_it"]["glob"])) if folder else []


def _folder() -> Path | None:
    package = importlib.util.find_spec("vllm")
    if package is None or not package.submodule_search_locations:
        return None
    return Path(package.submodule_search_locations[0])
