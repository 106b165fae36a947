"""Files of vLLM's kernels, found without importing vLLM, which takes seconds."""

import importlib.machinery
import importlib.util
from pathlib import Path

from verify.host.views import torch_view
from verify.tables import table


def vllm_extensions() -> list[Path]:
    """Return the extensions for this CPU or GPU; none if vLLM is not installed."""
    return _variant()[0]


def truncated_types() -> frozenset[str]:
    """Return the types to which the extension for this CPU cuts results instead of rounding them."""
    return _variant()[1]


def _variant() -> tuple[list[Path], frozenset[str]]:
    folder = _folder()
    if folder is None:
        return [], frozenset()
    for row in table("libraries")["vllm_kernels"]:
        supported = row["when"] == "always" or getattr(torch_view.load().cpu, row["when"], bool)()
        if supported and (found := sorted(folder.glob(row["glob"]))):
            return found, frozenset(row.get("truncated", ()))
    return [], frozenset()


def further_extensions() -> list[Path]:
    """Return the additional extensions for GPUs, which need the driver's library."""
    folder = _folder()
    return sorted(folder.glob(table("libraries")["vllm_kernels_next_to_it"]["glob"])) if folder else []


def all_extensions() -> list[Path]:
    """Return every extension of the package that this Python and this CPU can load, by name."""
    folder = _folder()
    if folder is None:
        return []
    variants = {path for row in table("libraries")["vllm_kernels"] for path in folder.glob(row["glob"])}
    for_others = variants.difference(vllm_extensions())
    return [path for path in sorted(folder.rglob("*.so")) if path not in for_others and _of_this_python(path)]


def _of_this_python(path: Path) -> bool:
    """Return whether the suffix belongs to this Python: a wheel may hold a module for several versions."""
    return f".{path.name.partition('.')[2]}" in importlib.machinery.EXTENSION_SUFFIXES


def _folder() -> Path | None:
    package = importlib.util.find_spec("vllm")
    if package is None or not package.submodule_search_locations:
        return None
    return Path(package.submodule_search_locations[0])
