"""Which Python an environment gets: the host's where it fits, else one that the product brings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from provision.catalog import catalog
from provision.catalog.versions import minor, within
from provision.core.models.stack import Interpreter
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile, HostPython, Interpreters
from provision.phases.plan.torch_pair import split

OWN_FLOOR = ">=3.10"
"""What checks an environment and proves its answers runs in it too: verify.pyz and ready.pyz (their ruff.toml)."""
_OLDER_FLOOR = re.compile(r">=3\.\d(?!\d)")


@dataclass(frozen=True, slots=True)
class InterpreterChoice:
    """`interpreter` is None when no Python is in the range. `lacks_headers` is None when nobody looked."""

    interpreter: Interpreter | None
    why: str
    lacks_headers: bool | None = False


def wanted(option: BuildOption) -> str:
    """The range of Pythons that a candidate and our own programs beside it take, in words of Python's own notation."""
    build, row = option.build, option.release
    if build is not None and build.python_only:
        return f"=={build.python_only}.*"
    return _with_ours(row.python if row else option.torch.python)


@cache
def _with_ours(upstream: str) -> str:
    return _OLDER_FLOOR.sub(OWN_FLOOR, upstream)


def fits(option: BuildOption, version: str) -> bool:
    """Whether the build and the torch wheel both exist for a Python."""
    return within(version, wanted(option)) and minor(version) in option.torch.pythons


def choose(option: BuildOption, profile: HostProfile) -> InterpreterChoice:
    """The interpreter for a candidate on a host."""
    return choose_among(option, profile.interpreters)


@cache
def choose_among(option: BuildOption, there: Interpreters) -> InterpreterChoice:
    """The interpreter for a candidate among those of a class, or one that is brought along."""
    if there.with_torch:
        return _with_torch(option, there.pythons)
    return _choose(option, there.pythons, known=there.known, installs=there.installs)


def _with_torch(option: BuildOption, pythons: tuple[HostPython, ...]) -> InterpreterChoice:
    """A Python of the host that holds the candidate's torch: none can be brought along."""
    holding = [
        python
        for python in pythons
        if python.torch and split(python.torch) == (option.torch.version, option.torch_variant)
    ]
    for python in holding:
        if fits(option, python.version):
            lacks = None if python.headers is None else not python.headers
            why = f"the host's Python {python.version} ({python.path}) is in {wanted(option)} and holds torch {python.torch}"
            return InterpreterChoice(
                Interpreter(version=python.version, origin="host", path=python.path, torch=python.torch), why, lacks
            )
    seen = ", ".join(f"{python.version} ({python.path})" for python in holding)
    return InterpreterChoice(
        None, f"torch {option.torch.version} is the host's own, of Python {seen}, which is not in {wanted(option)}"
    )


def _choose(option: BuildOption, pythons: tuple[HostPython, ...], *, known: bool, installs: bool) -> InterpreterChoice:
    fitting = [python for python in pythons if fits(option, python.version)]
    ready = [python for python in fitting if python.headers is not False or installs]
    if ready:
        python = ready[0]
        lacks = None if python.headers is None else not python.headers
        return InterpreterChoice(
            Interpreter(version=python.version, origin="host", path=python.path),
            f"the host's Python {python.version} ({python.path}) is in {wanted(option)}",
            lacks,
        )
    version = _managed(option)
    if version is None:
        return InterpreterChoice(
            None, f"no Python is both in {wanted(option)} and among the wheels of torch {option.torch.version}"
        )
    return InterpreterChoice(
        Interpreter(version=version, origin="managed"),
        _why_managed(option, pythons if known else None, fitting, version),
    )


def _managed(option: BuildOption) -> str | None:
    locked = option.release.python_locked if option.release else ()
    versions = [row.version for row in catalog().managed_pythons if fits(option, f"{row.version}.0")]
    return next((version for version in versions if version in locked), versions[0] if versions else None)


def _why_managed(
    option: BuildOption, pythons: tuple[HostPython, ...] | None, fitting: list[HostPython], version: str
) -> str:
    if fitting:
        return f"Python {fitting[0].version} of the host lacks its headers and nobody may install them: {version} is brought along"
    if pythons is None:
        return f"the host's Pythons are not known: {version} is brought along"
    seen = ", ".join(python.version for python in pythons) or "none"
    return f"no Python of the host ({seen}) is in {wanted(option)}: {version} is brought along"
