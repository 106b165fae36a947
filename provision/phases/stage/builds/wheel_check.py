"""Whether a wheel is what a key asks for. Decided before it is installed, from the file alone: what is imported to be tried may already have done harm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from provision.catalog.versions import minor, numbers
from provision.phases.stage.builds.build_key import Key
from provision.phases.stage.builds.extension import Extension
from provision.phases.stage.builds.torch_libraries import missing_symbols
from provision.phases.stage.platforms import Target
from verify.cxx_abi import text_symbols
from verify.gpu_code import native_for

_LOCAL = re.compile(r"(?P<runtime>cu\d+|rocm\d+)torch(?P<torch>[\d.]+)(?:cxx11abi(?P<abi>true|false))?", re.IGNORECASE)
"""The local part of a version as flash-attn's authors write it, cu12torch2.8cxx11abiTRUE, or others: cu128torch2.9."""


def faults(extension: Extension, key: Key, *, torch: Path | None, compiled: bool = True) -> list[str]:
    """Why a wheel may not go beside a Stack's torch; nothing when it may.

    `torch` is that torch's own wheel, whose exports the extension's symbols are held against; `compiled` says that the package must hold a
    compiled extension.
    """
    found = [*_metadata(extension, key)]
    if not extension.libraries:
        return [*found, "it holds no compiled extension"] if compiled else found
    found += [*_libraries(extension, key), *_abi(extension, key), *_code(extension, key)]
    if torch is not None and (missing := missing_symbols(torch, extension.torch_symbols)):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        found.append(f"it wants {min(missing)}{more} of torch, which `{torch.name}` does not have")
    return found


def unmet(extension: Extension, locked: dict[str, str], target: Target) -> list[str]:
    """What a wheel's metadata requires on a host and a lock (canonical name to version) does not give."""
    markers = cast("dict[str, str]", target.markers()) | {"extra": ""}
    found = []
    for text in extension.requires:
        try:
            need = Requirement(text)
        except InvalidRequirement:
            found.append(f"it requires `{text}`, which nobody can read")
            continue
        if need.marker and not need.marker.evaluate(markers):
            continue
        have = locked.get(canonicalize_name(need.name))
        if have is None or not need.specifier.contains(Version(have), prereleases=True):
            found.append(f"it requires {need}, and the lock has {have or 'none'}")
    return found


def _metadata(extension: Extension, key: Key) -> Iterator[str]:
    version = Version(extension.version)
    if extension.name != key.name or version.public != Version(key.version).public:
        yield f"it is {extension.name} {extension.version}, not {key.name} {key.version}"
    python = f"cp{key.built_for.python.replace('.', '')}"
    if not any(_serves(tag, python) for tag in extension.pythons):
        yield f"it is for {', '.join(sorted(extension.pythons))}, not {python}"
    machine = key.built_for.machine
    if not any(platform == "any" or platform.endswith(machine) for platform in extension.platforms):
        yield f"it is for {', '.join(sorted(extension.platforms))}, not {machine}"
    if version.local and (said := _LOCAL.match(version.local.replace("-", "."))):
        yield from _local(said, key)


def _serves(tag: str, python: str) -> bool:
    return tag == python or tag.startswith("py")


def _local(said: re.Match[str], key: Key) -> Iterator[str]:
    want = _LOCAL.match(key.local)
    assert want
    runtime = said["runtime"].lower()
    if runtime != want["runtime"] and not _minor_of(runtime, want["runtime"]):
        yield f"its version says {said['runtime']}, and the Stack has {want['runtime']}"
    if minor(said["torch"]) != key.built_for.torch:
        yield f"its version says torch {said['torch']}, and the Stack has {key.built_for.torch}"
    if said["abi"] and said["abi"].lower() != str(key.built_for.cxx11_abi).lower():
        yield f"its version says cxx11abi{said['abi'].upper()}, and torch has cxx11abi{str(key.built_for.cxx11_abi).upper()}"


def _minor_of(said: str, wanted: str) -> bool:
    """Whether a CUDA release with its minor (`cu128`) is one of a major (`cu12`)."""
    return wanted.startswith("cu") and len(said) > len(wanted) and said.startswith(wanted)


def _libraries(extension: Extension, key: Key) -> Iterator[str]:
    for path, library in extension.libraries:
        if library.machine != key.built_for.machine:
            yield f"{path} is for {library.machine}, not {key.built_for.machine}"
    majors = extension.cuda_majors()
    if majors and key.built_for.cuda_major not in majors:
        yield (
            f"it is linked with libcudart.so.{min(majors)}, and the Stack has {key.runtime}"
            if key.platform == "cuda"
            else f"it is linked with CUDA {min(majors)}, and the Stack is for ROCm"
        )
    if extension.glibc and numbers(extension.glibc) > numbers(key.built_for.glibc):
        yield f"it wants glibc {extension.glibc}, and the oldest host has {key.built_for.glibc}"


def _abi(extension: Extension, key: Key) -> Iterator[str]:
    """The ABI shows only in symbols that pass text; a library without any says nothing."""
    new, old = text_symbols(extension.torch_symbols)
    if key.built_for.cxx11_abi and old:
        yield f"it is built without the C++11 ABI ({old[0]}), and torch with it"
    if not key.built_for.cxx11_abi and new:
        yield f"it is built with the C++11 ABI ({new[0]}), and torch without it"


def _code(extension: Extension, key: Key) -> Iterator[str]:
    codes = set(extension.codes)
    lacking = [card for card in key.built_for.capabilities if not native_for(codes, card)]
    if lacking:
        yield f"it has no native code for {', '.join(lacking)} (it has {', '.join(sorted(codes)) or 'none'})"
