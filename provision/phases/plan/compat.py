"""NVIDIA's forward compatibility libraries: a newer CUDA under a driver that is too old, on data-centre cards alone."""

from __future__ import annotations

from functools import cache

from provision.catalog import catalog
from provision.catalog.packages import package_system, packages_of_component
from provision.catalog.versions import cuda_of, numbers
from provision.core.errors import UsageError
from provision.core.models.stack import CudaCompat
from provision.phases.plan import driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile

COMPONENT = "cuda-compat"
FOLDER = "/usr/local/cuda-{cuda}/compat"
BASES = ("lts", "production")
"""Kinds of driver branches that the libraries are made for."""
CURED = ("driver-floor", "ptx")
"""What a newer user-mode driver mends. What the kernel's driver cannot drive stays so."""


def choose(option: BuildOption, profile: HostProfile) -> CudaCompat | None:
    """The libraries of a candidate; None where the driver reaches without, the policy does not ask for them, or they cannot be."""
    if not profile.policy.cuda_compat or not lacks(option, profile) or obstacle(option, profile):
        return None
    return _libraries(_cuda(option))


def lacks(option: BuildOption, profile: HostProfile) -> bool:
    """Whether a driver that stays is too old for a candidate, in a way that the libraries mend."""
    plan = driver.choose(option, profile)
    if plan is None or plan.action != "keep" or plan.version is None:
        return False
    floor = driver.too_old(option, profile, plan.version)
    return floor is not None and floor.rule in CURED


def obstacle(option: BuildOption, profile: HostProfile) -> str | None:
    """Why the libraries cannot be brought to a class, or would not run there."""
    package = _libraries(_cuda(option)).package
    other = next((card.name for card in profile.present if card.row is None or card.row.kind != "data-centre"), None)
    if other is not None:
        return f"{package} is for data-centre cards; on {other} it ends in error 803 or 804"
    branch = next((row for row in catalog().branches if row.branch == numbers(profile.driver or "0")[0]), None)
    if branch is None or branch.kind not in BASES:
        return f"{package} is made for drivers of long-term and production branches, and {profile.driver} is of neither"
    if profile.foreign_driver is not None:
        return f"{package} would have to come with the image: the driver is that of the machine below"
    if profile.escalates is False:
        return f"{package} is to be brought, and installing does not act as root there"
    try:
        package_system(profile.os_id, profile.os_version)
    except UsageError as error:
        return f"{package} is to be brought: {error.text}" if profile.os_id else None
    return None


def package(option: BuildOption) -> str:
    """The name of a candidate's libraries."""
    return _libraries(_cuda(option)).package


def _cuda(option: BuildOption) -> str:
    """The newer one of vLLM's and torch's."""
    return max((cuda_of(variant) or "0" for variant in (option.variant, option.torch_variant)), key=numbers)


@cache
def _libraries(cuda: str) -> CudaCompat:
    (name,) = packages_of_component(COMPONENT, cuda=cuda)
    return CudaCompat(cuda=cuda, package=name, folder=FOLDER.format(cuda=cuda))
