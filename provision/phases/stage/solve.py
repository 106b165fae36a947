"""The request to uv's resolver for a Stack, its answer for the platform of a host, and the wheels that fit: the lock.

Wheel tags and dependency markers are those of the host's platform and Python, not of the controller's.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Environment
from packaging.pylock import PackageWheel, Pylock, PylockSelectError, PylockValidationError
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name
from packaging.version import Version

from provision.catalog.index.project_page import IndexLocation
from provision.catalog.index.settings import without_credentials
from provision.catalog.index.uv import run_uv
from provision.core.errors import StageError
from provision.core.models.stack import DependencyPlan, Stack
from provision.core.scratch import scratch_folder
from provision.core.tables import own_table

UV_GLIBC_MINORS = (17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40)
"""The manylinux_2_N that `uv pip compile --python-platform` knows. Source: help text of uv 0.13."""

_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""Older names of three glibc floors. Source: PEP 600."""
_OLDEST = {"x86_64": 5, "aarch64": 17}
"""The oldest glibc minor in wheel tags, by architecture. Source: PEP 513 and PEP 599."""


@dataclass(frozen=True)
class Target:
    """The platform that wheels must fit: `x86_64-manylinux_2_36` and a CPython, `3.11` or `3.11.7`."""

    machine: str
    glibc_minor: int
    python: str

    @classmethod
    def of(cls, platform: str, python: str) -> Target:
        """Return the target for a Stack's platform and interpreter version.

        Raises StageError where no wheel can be chosen for this platform.
        """
        found = re.fullmatch(r"(x86_64|aarch64)-manylinux_2_(\d+)", platform)
        if not found:
            raise StageError(
                f"no wheels can be chosen for platform `{platform}`",
                hint="supported are x86_64-manylinux_2_N and aarch64-manylinux_2_N (glibc 2.N)",
            )
        return cls(found[1], int(found[2]), python)

    @property
    def minor(self) -> tuple[int, int]:
        major, minor = self.python.split(".")[:2]
        return int(major), int(minor)

    @property
    def wheel_tag(self) -> str:
        """The best tag that fits, as file names have it: `cp313-manylinux_2_41_x86_64`."""
        return "cp{}{}-manylinux_2_{}_{}".format(*self.minor, self.glibc_minor, self.machine)

    @property
    def uv_platform(self) -> str:
        """The nearest platform that uv can solve for, never newer than the host's."""
        known = [minor for minor in UV_GLIBC_MINORS if minor <= self.glibc_minor]
        if not known:
            raise StageError(
                f"glibc 2.{self.glibc_minor} is older than any that packages are solved for (2.{UV_GLIBC_MINORS[0]})",
                hint="use a host with a newer operating system",
            )
        return f"{self.machine}-manylinux_2_{known[-1]}"

    def tags(self) -> list[Tag]:
        """Return every tag that fits, the best first."""
        platforms = [f"linux_{self.machine}"]
        for minor in range(self.glibc_minor, _OLDEST[self.machine] - 1, -1):
            platforms += [f"{name}_{self.machine}" for name in (f"manylinux_2_{minor}", _LEGACY.get(minor)) if name]
        interpreter = "cp{}{}".format(*self.minor)
        return [
            *cpython_tags(self.minor, abis=[interpreter], platforms=platforms),
            *compatible_tags(self.minor, interpreter=interpreter, platforms=platforms),
        ]

    def markers(self) -> Environment:
        """Return the environment for dependency markers on the host."""
        full = self.python if self.python.count(".") == 2 else f"{self.python}.0"
        return {
            "implementation_name": "cpython",
            "implementation_version": full,
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": full,
            "platform_python_implementation": "CPython",
            "python_version": "{}.{}".format(*self.minor),
            "sys_platform": "linux",
        }


@dataclass(frozen=True)
class LockedWheel:
    """A distribution of the lock, its wheel, and the address of that wheel."""

    distribution: str
    version: str
    name: str
    """File name of the wheel."""
    sha256: str
    url: str
    """Empty for a wheel that is built on the controller."""
    size: int | None = None


def lock_text(locked: Sequence[LockedWheel]) -> str:
    """Return a requirements file: one line and one hash a distribution, in alphabetical order, no index address."""
    rows = sorted((canonicalize_name(file.distribution), file.version, file.sha256) for file in locked)
    return "".join(f"{name}=={version} --hash=sha256:{sha256}\n" for name, version, sha256 in rows)


@dataclass(frozen=True)
class PinnedBuild:
    """A distribution of fixed version and variant, and the vendor's index; None where the user's indexes serve it."""

    name: str
    version: str
    """With a local part where the requirement must have it (`2.13.0+cpu`)."""
    variant: str
    vendor: str | None

    def fits(self, version: Version, location: IndexLocation) -> bool:
        """Check whether a version at a location is this build.

        The vendor's index has only one variant, and its file names may omit it; elsewhere the local part decides.
        """
        if Version(version.public) != Version(self.version.partition("+")[0]):
            return False
        return version.local == self.variant or (location.url == self.vendor and "+" not in self.version)


@dataclass(frozen=True)
class SolveRequest:
    """Requirements, the index of each pinned one, and exclusions."""

    target: Target
    requirements: tuple[str, ...]
    pins: tuple[tuple[str, str], ...] = ()
    """(distribution, index address) pairs."""
    excluded: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    """Requirements that replace those in the metadata of distributions."""
    until: str | None = None
    """Upload day of the newest file that may be chosen, except of `undated` and pinned distributions."""
    undated: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    """Distributions to take as source. Their own requirements are not read, since that would run their code."""


def target_of(stack: Stack) -> Target:
    """Return the Stack's platform with the fullest known version of its Python."""
    known = stack.interpreter.version
    return Target.of(stack.platform, known if known.count(".") == 2 else stack.python)


def builds_of(stack: Stack) -> list[PinnedBuild]:
    """Return the builds of an index: vLLM (unless there is none, or its wheel is given), torch (unless the host has its own), kernel packages."""
    torch, vllm, flash = stack.torch, stack.vllm, stack.flash_attn.package
    builds = []
    if vllm and not vllm.wheel:
        builds.append(PinnedBuild(vllm.distribution, vllm.version, vllm.variant, vllm.index))
    if not stack.interpreter.torch:
        wanted = f"{torch.version}+{torch.variant}" if torch.index and not brings_torch(stack) else torch.version
        builds.append(PinnedBuild("torch", wanted, torch.variant, torch.index))
    if flash and flash.is_locked:
        builds.append(PinnedBuild(flash.distribution, flash.version, stack.variant, None))
    kernels = stack.flashinfer.packages if stack.flashinfer else ()
    return [*builds, *(PinnedBuild(item.distribution, item.version, stack.variant, item.index) for item in kernels)]


def brings_torch(stack: Stack) -> bool:
    """Check whether torch comes from vLLM's index. Its local part is then a commit (`2.10.0+git8514f05`), not a variant."""
    return stack.vllm is not None and stack.vllm.index is not None and stack.torch.index == stack.vllm.index


def companions_of(stack: Stack) -> list[str]:
    """Return the distributions that must come from torch's index; none when the host has its own torch."""
    return [] if stack.interpreter.torch else list(_companions(stack.variant)["pinned"])


def executor_requirements(stack: Stack) -> list[str]:
    """Return what starts vLLM's processes on several hosts, where vLLM does not do that itself: its wheel names no Ray."""
    table = own_table(Path(__file__).with_name("executors.toml"))
    return list(table[stack.executor]["requirements"]) if stack.executor in table else []


@dataclass(frozen=True)
class LocatedBuild:
    """The location of a pinned build, and its full version there."""

    location: IndexLocation
    version: Version


def make_request(
    stack: Stack,
    target: Target,
    sources: Mapping[str, LocatedBuild],
    companions: Mapping[str, bool],
    extra: Sequence[str] = (),
) -> SolveRequest:
    """Return the request to uv; `companions`: for each, whether torch's index has a build that fits."""
    pins = {name: source.location.url for name, source in sources.items() if not source.location.flat}
    table = _companions(stack.variant)
    requirements = [
        f"{build.name}=={sources[build.name].version if build.name in sources else build.version}"
        for build in builds_of(stack)
    ]
    excluded = list(table["excluded"])
    if stack.interpreter.torch:
        excluded += ["torch", *table["pinned"]]
    for name, found in companions.items():
        if found and "torch" in pins:
            pins[name] = pins["torch"]
            requirements.append(name)
        elif name in table["unless_found"]:
            excluded.append(name)
    if stack.supervisor == "supervisor":
        requirements.append("supervisor")
    requirements += [*executor_requirements(stack), *stack.tracing, *stack.packages]
    # A CPU build of vLLM pins the CPU build of torch by its local version; override that.
    overrides = (f"torch=={stack.torch.version}",) if stack.torch_stands_in else ()
    limits = stack.dependencies or DependencyPlan()
    return SolveRequest(
        target,
        (*requirements, *extra),
        tuple(sorted(pins.items())),
        tuple(excluded),
        constraints=limits.bounds,
        overrides=overrides,
        until=limits.until,
        undated=tuple(build.name for build in builds_of(stack)),
    )


def _companions(variant: str) -> dict[str, list[str]]:
    table = own_table(Path(__file__).with_name("companions.toml"))
    companions: dict[str, list[str]] = table.get(variant, table["default"])
    return companions


def solve(request: SolveRequest, variables: Mapping[str, str]) -> str:
    """Solve a request with uv; return a pylock.toml with every file of every distribution.

    Raises StageError with uv's own sentence where uv refuses, or an index cannot be reached.
    """
    with scratch_folder() as folder:
        (folder / "pyproject.toml").write_text(_project(request), encoding="utf-8")
        output = folder / "pylock.toml"
        command = [
            "pip",
            "compile",
            "--quiet",
            "--format",
            "pylock.toml",
            "--generate-hashes",
            "--only-binary",
            ":all:",
        ]
        command += ["--python", sys.executable, "--python-version", request.target.python]
        command += ["--python-platform", request.target.uv_platform]
        command += [option for name in request.sources for option in ("--no-binary", name)]
        if request.until:
            command += ["--exclude-newer", f"{request.until}T23:59:59Z"]
            undated = sorted({*request.undated, *(name for name, _ in request.pins)})
            command += [option for name in undated for option in ("--exclude-newer-package", f"{name}=false")]
        listed = {"excludes": request.excluded, "constraints": request.constraints, "overrides": request.overrides}
        for option, lines in listed.items():
            path = folder / f"{option}.txt"
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            command += [f"--{option}", str(path)]
        command += ["--output-file", str(output), str(folder / "pyproject.toml")]
        run_uv(command, folder, variables)
        return output.read_text(encoding="utf-8")


def _project(request: SolveRequest) -> str:
    """Return a pyproject.toml for uv. JSON strings are valid TOML strings."""
    lines = [
        "[project]",
        'name = "firstlight-environment"',
        'version = "0"',
        f"dependencies = {json.dumps(list(request.requirements))}",
    ]
    urls = list(dict.fromkeys(url for _, url in request.pins))
    if request.pins:
        lines.append("[tool.uv.sources]")
        lines += [f'{name} = {{ index = "pinned-{urls.index(url)}" }}' for name, url in request.pins]
    for number, url in enumerate(urls):
        lines += ["[[tool.uv.index]]", f'name = "pinned-{number}"', f"url = {json.dumps(url)}", "explicit = true"]
    for name in request.sources:
        lines += ["[[tool.uv.dependency-metadata]]", f"name = {json.dumps(name)}", "requires-dist = []"]
    return "\n".join(lines) + "\n"


def choose_wheels(pylock: str, target: Target, *, own: Collection[str] = ()) -> list[LockedWheel]:
    """Choose the wheel of each distribution but `own`, which are built on the controller.

    Raises StageError where a distribution has no wheel that fits, or one without a sha256.
    """
    local = {canonicalize_name(name) for name in own}
    try:
        lock = Pylock.from_dict(tomllib.loads(pylock))
        chosen = list(lock.select(environment=target.markers(), tags=target.tags()))
    except (PylockSelectError, PylockValidationError, tomllib.TOMLDecodeError) as error:
        raise StageError(
            f"uv's lock does not fit Python {target.python} on {target.machine}: {without_credentials(str(error))}"
        ) from error
    locked = []
    for package, choice in chosen:
        if package.name in local:
            continue
        if not isinstance(choice, PackageWheel):
            raise StageError(
                f"no wheel of {package.name} {package.version} fits {target.wheel_tag}", cause="platform-no-wheel"
            )
        sha256 = choice.hashes.get("sha256")
        if not sha256 or not choice.url:
            raise StageError(
                f"the index gives no sha256 for `{choice.filename}`",
                hint="use an index that announces sha256 hashes (PEP 503)",
            )
        locked.append(LockedWheel(package.name, str(package.version), choice.filename, sha256, choice.url, choice.size))
    return locked
