"""Metadata of the wheels of one release: METADATA, file names, and the file with the CUDA release."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.metadata import RawMetadata, parse_email
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from provision.catalog.refresh.index_wheels import Wheel, WheelIndex
from provision.catalog.versions import numbers

MACHINES = ("x86_64", "aarch64")


@dataclass(frozen=True)
class VllmMetadata:
    """Metadata of a vLLM release. `cuda` is from vllm/envs.py; None where that file lacks it."""

    version: str
    date: str | None
    """Upload day of the first wheel; None where the index lacks it."""
    python: str
    torch: str | None
    cuda: str | None
    machines: tuple[str, ...]
    torchvision: str | None
    torchaudio: str | None
    flashinfer: str | None
    flashinfer_cubin: bool
    glibc: str
    """From the wheel's tag."""
    file: str
    """The wheel that was read."""


@dataclass(frozen=True)
class TorchMetadata:
    """Metadata of a torch release. Variants are from torch/version.py of each architecture's wheel."""

    version: str
    python: str
    pythons: tuple[str, ...]
    glibc: str
    default_x86_64: str
    default_aarch64: str
    file: str


def vllm(index: WheelIndex, wheels: Iterable[Wheel], version: str) -> VllmMetadata | None:
    """Read the metadata of one vLLM release from its wheels; None when there is none for Linux."""
    linux = _linux(wheels)
    if not linux:
        return None
    wheel = _for(linux, "x86_64") or linux[0]
    metadata = _metadata(index, wheel)
    pins = _pins(metadata)
    named = re.search(r"""VLLM_MAIN_CUDA_VERSION: str = ["'](\d+\.\d+)["']""", index.read(wheel, "vllm/envs.py") or "")
    return VllmMetadata(
        version=version,
        date=min((item.uploaded[:10] for item in linux if item.uploaded), default=None),
        python=metadata.get("requires_python", ""),
        torch=pins.get("torch"),
        cuda=named[1] if named else None,
        machines=machines_of(linux),
        torchvision=pins.get("torchvision"),
        torchaudio=pins.get("torchaudio"),
        flashinfer=pins.get("flashinfer-python"),
        flashinfer_cubin="flashinfer-cubin" in pins,
        glibc=_glibc(wheel),
        file=wheel.name,
    )


def torch(index: WheelIndex, wheels: Iterable[Wheel], version: str) -> TorchMetadata | None:
    """Read the metadata of one torch release from its wheels; None when there is none for Linux on x86_64."""
    linux = _linux(wheels)
    wheel = _for(linux, "x86_64")
    if wheel is None:
        return None
    other = _for(linux, "aarch64")
    return TorchMetadata(
        version=version,
        python=_metadata(index, wheel).get("requires_python", ""),
        pythons=tuple(sorted({python for item in linux for python in _pythons(item)}, key=numbers)),
        glibc=_glibc(wheel),
        default_x86_64=_variant(index, wheel),
        default_aarch64=_variant(index, other) if other else "cpu",
        file=wheel.name,
    )


def by_release(wheels: Iterable[Wheel]) -> dict[str, list[Wheel]]:
    """Group the wheels of final, not yanked releases by release without local part, oldest first."""
    found: dict[str, list[Wheel]] = {}
    for wheel in wheels:
        if not wheel.yanked and not wheel.version.is_prerelease and wheel.version.local is None:
            found.setdefault(wheel.version.public, []).append(wheel)
    return found


def _linux(wheels: Iterable[Wheel]) -> list[Wheel]:
    return sorted((wheel for wheel in wheels if wheel.machine), key=lambda wheel: wheel.name)


def _for(wheels: list[Wheel], machine: str) -> Wheel | None:
    return next((wheel for wheel in wheels if wheel.machine == machine), None)


def machines_of(wheels: list[Wheel]) -> tuple[str, ...]:
    """Return the processor architectures that wheels are for."""
    return tuple(machine for machine in MACHINES if _for(wheels, machine))


def _metadata(index: WheelIndex, wheel: Wheel) -> RawMetadata:
    return parse_email(index.read(wheel, "METADATA") or "")[0]


def _pins(metadata: RawMetadata) -> dict[str, str | None]:
    """Return required distributions by name, with the version of an exact pin. Requirements of extras are left out."""
    found: dict[str, str | None] = {}
    for line in metadata.get("requires_dist", []):
        try:
            need = Requirement(line)
        except InvalidRequirement:
            continue
        if need.marker and "extra" in str(need.marker):
            continue
        exact = [item.version for item in need.specifier if item.operator == "=="]
        found.setdefault(canonicalize_name(need.name), exact[0] if exact else None)
    return found


def _pythons(wheel: Wheel) -> set[str]:
    """Return the minors of CPython, without free-threaded builds."""
    tags = [tag for tag in wheel.tags if re.fullmatch(r"cp3\d+", tag.interpreter) and tag.abi == tag.interpreter]
    return {f"3.{tag.interpreter.removeprefix('cp3')}" for tag in tags}


def _variant(index: WheelIndex, wheel: Wheel) -> str:
    """Return the variant of a torch wheel: the local part of its version, else its CUDA release."""
    text = index.read(wheel, "torch/version.py") or ""
    local = re.search(r"""__version__\s*=\s*["'][^"'+]+\+([a-z]+[0-9.]*)["']""", text)
    if local and not local[1].startswith("git"):
        return local[1]
    cuda = re.search(r"""^cuda\b[^=]*=\s*["'](\d+)\.(\d+)["']""", text, re.MULTILINE)
    return f"cu{cuda[1]}{cuda[2]}" if cuda else "cpu"


def _glibc(wheel: Wheel) -> str:
    """Return the lowest glibc in the tags of a wheel."""
    old = {"manylinux1": "2.5", "manylinux2010": "2.12", "manylinux2014": "2.17"}
    found = []
    for tag in wheel.tags:
        match = re.match(r"manylinux_(\d+)_(\d+)_", tag.platform)
        found.append(f"{match[1]}.{match[2]}" if match else old.get(tag.platform.partition("_")[0], ""))
    return min((glibc for glibc in found if glibc), key=numbers, default="")
