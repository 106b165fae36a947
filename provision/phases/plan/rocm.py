"""The AMD components of a Stack: the kernel driver, and ROCm, which is kept, installed or upgraded."""

from provision.catalog import catalog
from provision.catalog.packages import repository_of_component
from provision.catalog.rows.hardware import Userspace
from provision.catalog.versions import numbers
from provision.core.errors import UsageError
from provision.core.models.facts import HostFacts
from provision.core.models.stack import RocmPlan, Stack
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.cards import amd_cards, nvidia_cards
from provision.phases.plan.host_profile import HostProfile

DRIVER, USERSPACE = "amdgpu", "rocm"


def choose(option: BuildOption, profile: HostProfile) -> RocmPlan | None:
    """Return the plan for the host's ROCm; None if the build uses none."""
    row = userspace(option)
    if profile.platform != "rocm" or row is None:
        return None
    if profile.rocm is None and profile.foreign_driver is None:
        return RocmPlan(action="install", version=offered())
    upgraded = profile.rocm is not None and not fits(row, profile.rocm)
    return RocmPlan(action="upgrade", version=offered()) if upgraded else RocmPlan(action="keep", version=profile.rocm)


def userspace(option: BuildOption) -> Userspace | None:
    """Return the need of a build that uses the system's ROCm; None for builds with their own."""
    if option.build is None:
        return None
    return next((row for row in catalog().userspaces if row.variant == option.variant), None)


def fits(row: Userspace, version: str) -> bool:
    """Return whether a build runs on a ROCm version."""
    return numbers(row.minimum) <= numbers(version)[:2] < numbers(row.below)


def offered() -> str:
    """Return the ROCm that AMD's repository installs."""
    return _oldest(USERSPACE)[USERSPACE]


def can_upgrade(profile: HostProfile) -> bool:
    """Return whether the host's ROCm is older than the offered one, and AMD has packages for the host."""
    if profile.rocm is None or numbers(profile.rocm) >= numbers(offered()) or profile.foreign_driver is not None:
        return False
    os_id, version = profile.os_id, profile.os_version
    try:
        for part in (DRIVER, USERSPACE):
            repository_of_component(part, os_id=os_id, version_id=version, machine="x86_64", mirror=None, key=None)
    except UsageError:
        return False
    return True


def lacking(stack: Stack, facts: HostFacts) -> tuple[str, ...]:
    """Return the catalog's components to install or upgrade; none in a container or under WSL, where the underlying machine has them.

    With ROCm, a driver of AMD's packages is upgraded too. The kernel's own has no version, and stays where it drives a GPU: one
    that is older than the GPUs is loaded, and offers none.
    """
    if facts.container or facts.wsl or not amd_cards(facts) or nvidia_cards(facts):
        return ()
    is_upgrade = stack.rocm is not None and stack.rocm.action == "upgrade"
    running = facts.amd.driver_version if facts.amd else None
    is_old = is_upgrade and running is not None and numbers(running) < numbers(_oldest(DRIVER)["amdgpu-dkms"])
    drives_none = running is None and not (facts.amd and facts.amd.gpus)
    parts = [DRIVER] if is_old or drives_none or DRIVER not in facts.kernel_modules else []
    if stack.rocm is not None and stack.rocm.action != "keep" and facts.amd is not None:
        parts.append(USERSPACE)
    return tuple(parts)


def _oldest(component: str) -> dict[str, str]:
    found = catalog().package_components[component].oldest
    assert found is not None
    return found
