"""The check of a wheel against its build key, from the file alone: importing an unfit extension may crash or hang."""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from provision.catalog.versions import numbers
from provision.features.wheel_builder.recipes import BuildKey
from provision.phases.stage.extension import Extension
from provision.phases.stage.solve import Target
from verify.binaries.elf import map_library, native_for


def find_mismatches(extension: Extension, key: BuildKey, *, torch: Path | None, compiled: bool = True) -> list[str]:
    """Return why a wheel does not fit a Stack, whose torch must have the symbols that it needs; empty when it fits."""
    found = [*_metadata(extension, key)]
    if not extension.libraries:
        return [*found, "it has no compiled extension"] if compiled else found
    found += [*_libraries(extension, key), *_code(extension, key)]
    if torch is not None and (missing := missing_symbols(torch, extension.torch_symbols)):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        found.append(f"it needs {min(missing)}{more} of torch, which `{torch.name}` lacks")
    return found


def find_unmet_requirements(extension: Extension, locked: dict[str, str], target: Target) -> list[str]:
    """Return the wheel's requirements that a lock (canonical name to version) does not meet on the target."""
    markers = cast("dict[str, str]", target.markers()) | {"extra": ""}
    found = []
    for text in extension.requires:
        try:
            need = Requirement(text)
        except InvalidRequirement:
            found.append(f"it has the invalid requirement `{text}`")
            continue
        if need.marker and not need.marker.evaluate(markers):
            continue
        have = locked.get(canonicalize_name(need.name))
        if have is None or not need.specifier.contains(Version(have), prereleases=True):
            found.append(f"it requires {need}, and the lock has {have or 'none'}")
    return found


def _metadata(extension: Extension, key: BuildKey) -> Iterator[str]:
    version = Version(extension.version)
    if extension.name != key.name or version.public != Version(key.version).public:
        yield f"it is {extension.name} {extension.version}, not {key.name} {key.version}"
    python = f"cp{key.built_for.python.replace('.', '')}"
    if not any(tag == python or tag.startswith("py") for tag in extension.pythons):
        yield f"it is for {', '.join(sorted(extension.pythons))}, not {python}"
    machine = key.built_for.machine
    if not any(platform == "any" or platform.endswith(machine) for platform in extension.platforms):
        yield f"it is for {', '.join(sorted(extension.platforms))}, not {machine}"


def _libraries(extension: Extension, key: BuildKey) -> Iterator[str]:
    for path, library in extension.libraries:
        if library.machine != key.built_for.machine:
            yield f"{path} is for {library.machine}, not {key.built_for.machine}"
    majors = extension.cuda_majors()
    if majors and key.built_for.cuda_major not in majors:
        yield (
            f"it is linked with libcudart.so.{min(majors)}, and the plan has {key.runtime}"
            if key.platform == "cuda"
            else f"it is linked with CUDA {min(majors)}, and the plan is for ROCm"
        )
    if extension.glibc and numbers(extension.glibc) > numbers(key.built_for.glibc):
        yield f"it needs glibc {extension.glibc}, and the oldest host has {key.built_for.glibc}"


def _code(extension: Extension, key: BuildKey) -> Iterator[str]:
    codes = set(extension.codes)
    lacking = [card for card in key.built_for.capabilities if not native_for(codes, card)]
    if lacking:
        yield f"it has no native code for {', '.join(lacking)} (it has {', '.join(sorted(codes)) or 'none'})"


_FIRST = ("c10", "c10_cuda", "c10_hip", "torch_python", "torch_cpu", "torch_cuda", "torch_hip")
"""Libraries with the symbols that extensions need, small ones first: a library of a gigabyte is unpacked only when necessary."""


def missing_symbols(torch: Path, wanted: frozenset[str]) -> frozenset[str]:
    """Return the symbols that no library in a torch wheel defines."""
    missing = wanted
    with zipfile.ZipFile(torch) as archive:
        members = set(archive.namelist())
        for member in (f"torch/lib/lib{name}.so" for name in _FIRST):
            if not missing or member not in members:
                continue
            with archive.open(member) as packed, tempfile.TemporaryFile() as file:
                shutil.copyfileobj(packed, file)
                file.flush()
                missing -= map_library(file).symbols()[1]
    return missing
