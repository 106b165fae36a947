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
    for row in table("libraries")["vllm_kernels"]:
        supported = row["when"] == "always" or getattr(torch_view.load().cpu, row["when"], bool)()
        if supported and (found := _files(row["glob"])):
            return found, frozenset(row.get("truncated", ()))
    return [], frozenset()


def further_extensions() -> list[Path]:
    """Return the additional extensions for GPUs, which need the driver's library."""
    return _files(table("libraries")["vllm_kernels_next_to_it"]["glob"])


def all_extensions() -> list[Path]:
    """Return every extension of the package that this Python and this CPU can load, by name."""
    variants = {path for row in table("libraries")["vllm_kernels"] for path in _files(row["glob"])}
    for_others = variants.difference(vllm_extensions())
    return [path for path in _files("**/*.so") if path not in for_others and _of_this_python(path)]


def _of_this_python(path: Path) -> bool:
    """Return whether the suffix belongs to this Python: a wheel may hold a module for several versions."""
    return f".{path.name.partition('.')[2]}" in importlib.machinery.EXTENSION_SUFFIXES


def _files(pattern: str) -> list[Path]:
    """Return the files of vLLM's package that match a pattern, by name; none if it is not installed."""
    package = importlib.util.find_spec("vllm")
    folders = (package and package.submodule_search_locations) or ()
    return sorted(path for folder in folders for path in Path(folder).glob(pattern))
