"""What is installed in this environment: distributions, those that a lock pins, vLLM's kernels, and NVIDIA's compatibility libraries."""

import importlib.metadata
import importlib.util
import os
import re
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from verify.files import read_json
from verify.host.views import torch_view
from verify.tables import table

PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*==\s*(?P<version>[^\s;\\]+)")
WHEEL = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*@\s*\S*?/(?P<file>[^/\s]+\.whl)")


def installed() -> Mapping[str, list[importlib.metadata.Distribution]]:
    """Return the distributions of this environment by normalised name; more than one of a name is a fault."""
    folders = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    found = defaultdict(list)
    for distribution in importlib.metadata.distributions(path=folders):
        found[normalised(distribution.metadata["Name"] or "")].append(distribution)
    return found


def parse_lock(text: str) -> dict[str, str]:
    """Return normalised name and version of each entry of a requirements file with hashes. Raises ValueError for other lines."""
    pins = {}
    for line in text.replace("\\\n", " ").splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith(("#", "-")):
            continue
        if pin := PIN.match(stripped):
            pins[normalised(pin["name"])] = pin["version"]
        elif wheel := WHEEL.match(stripped):
            pins[normalised(wheel["name"])] = wheel["file"].split("-")[1].replace("%2B", "+")
        else:
            raise ValueError(f"the lock pins nothing in its line `{stripped[:80]}`")
    return pins


def normalised(name: str) -> str:
    """Normalise a distribution's name according to the packaging standards."""
    return re.sub(r"[-_.]+", "-", name).lower()


def same_version(one: str, other: str) -> bool:
    """Return whether two versions are equal, ignoring trailing zeros, a leading v and separators."""
    return version_key(one) == version_key(other)


def version_key(version: str) -> tuple[tuple[int, ...], int, str, str]:
    """Return a sortable form of a version; the host's Python may lack `packaging`.

    Returns:
        The numbers; whether it is before (-1) or after (1) the release of these numbers; the rest; the local part.
    """
    public, _, local = version.strip().lower().removeprefix("v").partition("+")
    rest = public.lstrip("0123456789.!")
    numbers = [int(number) for number in re.findall(r"\d+", public.removesuffix(rest))]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    rest = re.sub(r"[-_.]", "", rest)
    place = 1 if rest.startswith("post") else -1 if rest[:1].isalpha() else 0
    return tuple(numbers), place, rest, re.sub(r"[-_]", ".", local)


def site_files(patterns: Iterable[str], *, fallback: Path | None = None) -> list[Path]:
    """Return the files in this environment's site-packages that match any of the patterns, sorted.

    If there is none, search `fallback` instead.
    """
    folders = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    wanted = list(patterns)
    own = sorted({path for folder in folders for pattern in wanted for path in folder.glob(pattern)})
    return own or (sorted({path for pattern in wanted for path in fallback.glob(pattern)}) if fallback else [])


def host_packages(stack: Mapping[str, Any]) -> Path | None:
    """Return the folder of the host's own torch if the Stack uses it, otherwise None."""
    spec = importlib.util.find_spec("torch") if (stack.get("interpreter") or {}).get("torch") else None
    return Path(spec.origin).resolve().parents[1] if spec and spec.origin else None


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
    # A wheel may hold a module for several versions of Python.
    own = [path for path in _files("**/*.so") if f".{path.name.partition('.')[2]}" in EXTENSION_SUFFIXES]
    return [path for path in own if path not in for_others]


def _files(pattern: str) -> list[Path]:
    """Return the files of vLLM's package that match a pattern, by name; none if it is not installed."""
    package = importlib.util.find_spec("vllm")
    folders = (package and package.submodule_search_locations) or ()
    return sorted(path for folder in folders for path in Path(folder).glob(pattern))


SEARCH = "LD_LIBRARY_PATH"


def compat_folder(stack: Any) -> str | None:
    """Return the libraries' folder that a Stack names."""
    compat = stack.get("cuda_compat") if isinstance(stack, dict) else None
    return str(compat["folder"]) if isinstance(compat, dict) and compat.get("folder") else None


def planned_stack(environment: Path) -> dict[str, Any]:
    """Return the Stack of an environment, with what the live release changes in it; empty where none is recorded."""
    state = read_json(environment.parent.parent / "state.json")
    live = state.get("stack") if state.get("environment") == environment.name else None
    return {**read_json(environment / "stack.json"), **(live if isinstance(live, dict) else {})}


def restart_with_compat() -> None:
    """Restart this program with the compatibility libraries of its Stack, unless it has them or needs none.

    The loader reads its search path only when a program starts.
    """
    folder = compat_folder(planned_stack(Path(sys.prefix).resolve()))
    there = os.environ.get(SEARCH, "")
    if folder is None or folder in there.split(":"):
        return
    path = f"{folder}:{there}" if there else folder
    os.execve(sys.executable, sys.orig_argv, {**os.environ, SEARCH: path})  # noqa: S606 - this very program
