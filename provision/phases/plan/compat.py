"""NVIDIA's forward compatibility libraries: a newer CUDA on a driver that is too old, for data-centre cards."""

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
"""Kinds of driver branches that the libraries support."""
CURED = ("driver-floor", "ptx")
"""Rules whose refusal a newer user-mode driver resolves. It adds no support for cards."""


def choose(option: BuildOption, profile: HostProfile) -> CudaCompat | None:
    """Return the libraries of a candidate; None if they are not needed, not allowed, or not possible."""
    if not profile.policy.cuda_compat or not lacks(option, profile) or obstacle(option, profile):
        return None
    return libraries(option)


def lacks(option: BuildOption, profile: HostProfile) -> bool:
    """Return whether a kept driver is too old for a candidate in a way that the libraries resolve."""
    plan = driver.choose(option, profile)
    if plan is None or plan.action != "keep" or plan.version is None:
        return False
    floor = driver.too_old(option, profile, plan.version)
    return floor is not None and floor.rule in CURED


def obstacle(option: BuildOption, profile: HostProfile) -> str | None:
    """Return why the libraries cannot be installed on a class or would not run there."""
    package = libraries(option).package
    other = next((card.name for card in profile.usable if card.row is None or card.row.kind != "data-centre"), None)
    if other is not None:
        return f"{package} supports data-centre GPUs; on {other} CUDA fails with error 803 or 804"
    branch = next((row for row in catalog().branches if row.branch == numbers(profile.driver or "0")[0]), None)
    if branch is None or branch.kind not in BASES:
        return f"{package} supports drivers of long-term and production branches; {profile.driver} belongs to neither"
    if profile.foreign_driver is not None:
        return f"the image must contain {package}: the driver belongs to the underlying machine"
    if profile.escalates is False:
        return f"{package} must be installed, which needs root"
    try:
        package_system(profile.os_id, profile.os_version)
    except UsageError as error:
        return f"{package} must be installed: {error.text}" if profile.os_id else None
    return None


def libraries(option: BuildOption) -> CudaCompat:
    """Return a candidate's libraries: those of the newer CUDA of vLLM and torch."""
    cuda = max((cuda_of(variant) or "0" for variant in (option.variant, option.torch_variant)), key=numbers)
    (name,) = packages_of_component(COMPONENT, cuda=cuda)
    return CudaCompat(cuda=cuda, package=name, folder=FOLDER.format(cuda=cuda))
