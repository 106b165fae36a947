"""The Python of an environment: the host's if it is in range, else a managed one."""

import re

from provision.catalog import catalog
from provision.catalog.versions import minor, within
from provision.core.models.facts import Python
from provision.core.models.stack import Interpreter
from provision.phases.plan.build_option import BuildOption, split_torch
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Choice

OWN_FLOOR = ">=3.10"
"""The floor of verify.pyz and ready.pyz, which run in the environment."""
_OLDER_FLOOR = re.compile(r">=3\.\d(?!\d)")


def wanted(option: BuildOption) -> str:
    """Return the range of Python versions for a candidate and for the programs that run in its environment."""
    build, row = option.build, option.release
    if build is not None and build.python_only:
        return f"=={build.python_only}.*"
    return _OLDER_FLOOR.sub(OWN_FLOOR, row.python if row else option.torch.python)


def fits(option: BuildOption, version: str) -> bool:
    """Return whether both the build and torch have a wheel for a Python."""
    return within(version, wanted(option)) and minor(version) in option.torch.pythons


def choose(option: BuildOption, profile: HostProfile) -> Choice[Interpreter | None]:
    """Return the interpreter for a candidate: one of a class, or a managed one; None if no Python is in range."""
    if profile.policy.torch == "existing":
        return _with_torch(option, profile.usable_pythons)
    fitting = [python for python in profile.usable_pythons if fits(option, python.version)]
    ready = [python for python in fitting if python.headers is not False or profile.escalates is not False]
    if ready:
        return _of_host(ready[0], f"is in {wanted(option)}")
    locked = option.release.python_locked if option.release else ()
    versions = [row.version for row in catalog().managed_pythons if fits(option, f"{row.version}.0")]
    version = next((version for version in versions if version in locked), versions[0] if versions else None)
    if version is None:
        return Choice(None, f"no Python in {wanted(option)} has a wheel of torch {option.torch.version}")
    why = _why_managed(option, profile, fitting)
    return Choice(Interpreter(version=version, origin="managed"), f"{why}: Firstlight installs Python {version}")


def _of_host(python: Python, why: str, torch: str | None = None) -> Choice[Interpreter | None]:
    headers = f"the headers of Python {python.version} are installed on the host, or a run installs them"
    return Choice(
        Interpreter(version=python.version, origin="host", path=python.path, torch=torch),
        f"the host's Python {python.version} ({python.path}) {why}",
        assumed=headers if python.headers is None else None,
    )


def _with_torch(option: BuildOption, pythons: tuple[Python, ...]) -> Choice[Interpreter | None]:
    """Return a Python of the host that contains the candidate's torch."""
    wanted_torch = (option.torch.version, option.torch_variant)
    with_torch = [python for python in pythons if python.torch and split_torch(python.torch) == wanted_torch]
    for python in with_torch:
        if fits(option, python.version):
            return _of_host(python, f"is in {wanted(option)} and contains torch {python.torch}", python.torch)
    seen = ", ".join(f"{python.version} ({python.path})" for python in with_torch)
    return Choice(
        None, f"torch {option.torch.version} belongs to the host's Python {seen}, which is not in {wanted(option)}"
    )


def _why_managed(option: BuildOption, profile: HostProfile, fitting: list[Python]) -> str:
    if fitting:
        return f"Python {fitting[0].version} of the host lacks its headers, and installing them needs root"
    if not profile.pythons_known:
        return "the host's Pythons are unknown"
    seen = ", ".join(python.version for python in profile.usable_pythons) or "none"
    return f"no Python of the host ({seen}) is in {wanted(option)}"
