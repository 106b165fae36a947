"""The row of a release from the metadata of its wheels: METADATA, file names, and the file with the CUDA release."""

import re
from collections.abc import Iterable
from dataclasses import replace

from packaging.metadata import RawMetadata, parse_email

from provision.catalog.index.project_page import Wheel
from provision.catalog.rows.builds import Build, Release, Torch
from provision.catalog.versions import cuda_of, numbers
from provision.catalog.wheels import exact_pins, main_cuda, oldest_glibc
from provision.features.catalog_refresh.index_wheels import WheelIndex


def torch(index: WheelIndex, wheels: Iterable[Wheel], version: str, *, today: str) -> Torch | None:
    """Return the row of a torch release; None when it has no wheel for Linux on x86_64.

    Args:
        index: Where the wheels are read.
        wheels: All wheels of the release.
        version: The release.
        today: ISO date, for the source.
    """
    linux = _linux(wheels)
    wheel, other = _for(linux, "x86_64"), _for(linux, "aarch64")
    if wheel is None:
        return None
    python = _metadata(index, wheel).get("requires_python", "")
    source = f"metadata and version file of {wheel.file.name}, read {today} from the user's index; only the default variants are known"
    default, aarch64 = _variant(index, wheel), _variant(index, other) if other else "cpu"
    return Torch(
        version=version,
        python=python,
        pythons=tuple(sorted({python for item in linux for python in _pythons(item)}, key=numbers)),
        glibc=oldest_glibc(wheel.tags),
        default_x86_64=default,
        default_aarch64=aarch64,
        cuda=(default,) if cuda_of(default) else (),
        cuda_aarch64=(aarch64,) if cuda_of(aarch64) else (),
        rocm=(),
        cxx11_abi=True,
        inferred=True,
        source=source,
    )


def vllm(
    index: WheelIndex, wheels: Iterable[Wheel], version: str, *, torches: dict[str, Torch], like: Release, today: str
) -> Release | str:
    """Return the row of a vLLM release, or why there can be none.

    Args:
        index: Where the wheels are read.
        wheels: All wheels of the release.
        version: The release.
        torches: Known releases of torch.
        like: The row from which the GPU code is carried over.
        today: ISO date, for the source.
    """
    linux = _linux(wheels)
    if not linux:
        return "no wheel for Linux"
    wheel = _for(linux, "x86_64") or linux[0]
    metadata = _metadata(index, wheel)
    pins = exact_pins(metadata.get("requires_dist", []))
    pinned = torches.get(pins.get("torch") or "")
    if pinned is None:
        return f"it pins torch {pins.get('torch')}, which neither the catalog nor the index has"
    cuda = main_cuda(index.read(wheel.file, "vllm/envs.py"))
    source = (
        f"metadata of {wheel.file.name}, read {today} from the user's index; GPU code carried over from {like.version}"
    )
    return Release(
        version=version,
        date=min((item.file.uploaded[:10] for item in linux if item.file.uploaded), default=None),
        python=metadata.get("requires_python", ""),
        torch=pinned.version,
        cuda=cuda or cuda_of(pinned.default_x86_64) or like.cuda,
        machines=_machines(linux),
        torchvision=pins.get("torchvision"),
        torchaudio=pins.get("torchaudio"),
        flashinfer=pins.get("flashinfer-python"),
        flashinfer_cubin="flashinfer-cubin" in pins,
        glibc=oldest_glibc(wheel.tags),
        core=like.core,
        core_aarch64=like.core_aarch64,
        fa2=like.fa2,
        fa3=like.fa3,
        fa4=like.fa4,
        inferred=True,
        source=source,
    )


def community_build(wheels: Iterable[Wheel], version: str, *, like: Build, today: str) -> Build | None:
    """Return the row of a community build, with glibc and instructions of `like`; None when it has no wheel for Linux."""
    linux = _linux(wheels)
    files = ", ".join(wheel.file.name for wheel in linux)
    source = f"{files} on the user's index, {today}; glibc and instructions carried over from {like.version}"
    return replace(like, version=version, machines=_machines(linux), inferred=True, source=source) if linux else None


def by_release(wheels: Iterable[Wheel]) -> dict[str, list[Wheel]]:
    """Group the wheels of final, not yanked releases by release without local part, oldest first."""
    found: dict[str, list[Wheel]] = {}
    for wheel in wheels:
        if not wheel.file.yanked and not wheel.version.is_prerelease and wheel.version.local is None:
            found.setdefault(wheel.version.public, []).append(wheel)
    return found


def _linux(wheels: Iterable[Wheel]) -> list[Wheel]:
    return sorted((wheel for wheel in wheels if wheel.machine), key=lambda wheel: wheel.file.name)


def _for(wheels: list[Wheel], machine: str) -> Wheel | None:
    return next((wheel for wheel in wheels if wheel.machine == machine), None)


def _machines(wheels: list[Wheel]) -> tuple[str, ...]:
    return tuple(machine for machine in ("x86_64", "aarch64") if _for(wheels, machine))


def _metadata(index: WheelIndex, wheel: Wheel) -> RawMetadata:
    return parse_email(index.read(wheel.file, "METADATA") or "")[0]


def _pythons(wheel: Wheel) -> set[str]:
    """Return the minors of CPython, without free-threaded builds."""
    tags = [tag for tag in wheel.tags if re.fullmatch(r"cp3\d+", tag.interpreter) and tag.abi == tag.interpreter]
    return {f"3.{tag.interpreter.removeprefix('cp3')}" for tag in tags}


def _variant(index: WheelIndex, wheel: Wheel) -> str:
    """Return the variant of a torch wheel: the local part of its version, else its CUDA release."""
    text = index.read(wheel.file, "torch/version.py") or ""
    local = re.search(r"""__version__\s*=\s*["'][^"'+]+\+([a-z]+[0-9.]*)["']""", text)
    if local and not local[1].startswith("git"):
        return local[1]
    cuda = re.search(r"""^cuda\b[^=]*=\s*["'](\d+)\.(\d+)["']""", text, re.MULTILINE)
    return f"cu{cuda[1]}{cuda[2]}" if cuda else "cpu"
