"""The NVIDIA driver of a candidate: the lowest versions that it needs, and where it comes from; what extends it, and the fabric manager."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from provision.catalog import catalog
from provision.catalog.packages import distribution_driver, find_package_system, package_system, packages_of_component
from provision.catalog.rows.hardware import Architecture, DistributionDriver
from provision.catalog.versions import cuda_of, numbers
from provision.core.errors import UsageError
from provision.core.models.facts import HostFacts, Nvidia
from provision.core.models.stack import CudaCompat, DriverPlan, Stack
from provision.phases.plan import attention
from provision.phases.plan.advisories import advisories_of
from provision.phases.plan.build_option import BuildOption, native_floor, torch_codes
from provision.phases.plan.cards import Coverage, coverage
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.policy import DriverAction


@dataclass(frozen=True)
class LaunchedCode:
    """GPU code that a Stack launches, with its CUDA variant."""

    name: str
    codes: tuple[str, ...]
    variant: str
    source: str
    capabilities: tuple[str, ...]
    """The compute capabilities of the cards that launch it."""


@dataclass(frozen=True)
class Floor:
    """The lowest driver for one reason."""

    driver: str
    rule: str
    why: str
    source: str | None


@dataclass(frozen=True)
class Supply:
    """An available driver. `row` is None for the vendor's."""

    source: Literal["vendor", "distribution"]
    version: str
    why: str
    row: DistributionDriver | None = None


def choose(option: BuildOption, profile: HostProfile) -> DriverPlan | None:
    """Return the driver of a candidate; None without NVIDIA cards. The rules check whether it is new enough."""
    if profile.platform != "cuda":
        return None
    if profile.driver_stays:
        return _kept(profile)
    if profile.driver_absent or profile.driver_reinstalled:
        return _installed("install", option, profile)
    short = profile.driver is None or too_old(option, profile, profile.driver) is not None
    if profile.policy.driver == "pinned":
        return _installed("upgrade", option, profile) if short or not is_pinned(profile) else _kept(profile)
    advisories = advisories_of("nvidia-driver", profile.driver or "") if is_ours(profile) else ()
    fixed = max((row.fixed for row in advisories), key=numbers, default="")
    if profile.driver and (short or fixed):
        plan = _installed("upgrade", option, profile, wanted="0" if short else fixed)
        if numbers(plan.version or "") > numbers(profile.driver):
            return plan
    return _kept(profile)


def is_ours(profile: HostProfile) -> bool:
    """Return whether advisories may replace the driver: not that of a vGPU's guest, and not without root."""
    return profile.escalates is not False and not any(card.virtual for card in profile.cards)


def _kept(profile: HostProfile) -> DriverPlan:
    return DriverPlan(action="keep", version=profile.driver, module=profile.module)


def is_pinned(profile: HostProfile) -> bool:
    """Return whether the present driver has the requested version or branch."""
    wanted = numbers(profile.policy.driver_version or profile.policy.driver_branch or "")
    return numbers(profile.driver or "")[: len(wanted)] == wanted


def supply(profile: HostProfile, least: str) -> Supply:
    """Return the driver to install on a host.

    In this order:
    1. A mirror of the vendor's packages, or the source that the settings name.
    2. The vendor's packages for boards that need nvlsm, which only the vendor has.
    3. The distribution's packages under Secure Boot, if it signs them and their version suffices: no key must be enrolled.
    4. The distribution's packages, if the vendor has none for the system.
    5. The vendor's packages.

    Args:
        least: The lowest version that the candidate needs.
    """
    policy, secure_boot = profile.policy, profile.secure_boot
    wanted = policy.driver_version or _newest_of(policy.driver_branch)
    if profile.driver and (policy.driver == "upgrade" or (profile.driver_reinstalled and policy.driver != "pinned")):
        # the new one is of no older branch than the one that it replaces
        wanted = max(wanted, _newest_of(profile.driver.partition(".")[0]), key=numbers)
    if policy.driver_source == "vendor" or policy.driver_mirror:
        return Supply("vendor", wanted, "the settings name a mirror" if policy.driver_mirror else "as requested")
    pinned = policy.driver_version or policy.driver_branch
    row = distribution_driver(
        profile.os_id,
        profile.os_version,
        profile.machine,
        branch=pinned.partition(".")[0] if pinned else None,
        module="open" if profile.needs_open_module else None,
    )
    if policy.driver_source == "distribution":
        return Supply("distribution", policy.driver_version or (row.version if row else wanted), "as requested", row)
    if any(card.row is not None and card.row.subnet_manager for card in profile.cards):
        return Supply("vendor", wanted, "only the vendor has nvlsm, which these boards need")
    if row is not None and policy.driver_version in {None, row.version} and numbers(row.version) >= numbers(least):
        if row.signed and secure_boot:
            why = f"Secure Boot is on, and {profile.os_id} signs these modules: no key must be enrolled"
            return Supply("distribution", row.version, why, row)
        if find_package_system(profile.os_id, profile.os_version) is None:
            why = f"the vendor has none for {profile.os_id} {profile.os_version}"
            return Supply("distribution", row.version, why, row)
    return Supply("vendor", wanted, "the default")


def _newest_of(branch: str | None) -> str:
    """Return the newest known release of a branch; without a branch, the offered driver."""
    newest = next((row.newest for row in catalog().branches if str(row.branch) == branch), None)
    return newest or catalog().driver_offer.version


def _installed(action: DriverAction, option: BuildOption, profile: HostProfile, wanted: str = "0") -> DriverPlan:
    """Return the plan for a driver within one branch, or of the requested version; `wanted` replaces it where its source has that."""
    least, requested = least_version(option, profile), profile.policy.driver_version
    found = supply(profile, least)
    branch = found.version.partition(".")[0]
    least = max(least, wanted, key=numbers) if numbers(wanted) <= numbers(found.version) else least
    present = {card.compute_capability for card in profile.usable}  # one that does not serve is to be driven, too
    modules = {
        row.module
        for row in catalog().architectures
        if row.module_only and row.compute_capability in present and int(branch) <= (row.last_branch or int(branch))
    }
    closed = modules == {"proprietary"} and not profile.needs_open_module
    head, dot, last = (requested or branch).rpartition(".")
    return DriverPlan(
        action=action,
        version=found.version,
        module="proprietary" if closed or (found.row is not None and not found.row.open) else "open",
        source=found.source,
        branch=branch,
        at_least=requested or max(least, branch, key=numbers),
        below=f"{head}{dot}{int(last) + 1:0{len(last)}}",  # 580.95.06 after 580.95.05, and 581 after 580
    )


def least_version(option: BuildOption, profile: HostProfile) -> str:
    """Return the highest of a candidate's floors."""
    return max((floor.driver for floor in floors(option, profile)), key=numbers, default="0")


def too_old(option: BuildOption, profile: HostProfile, driver: str) -> Floor | None:
    """Return the first floor that a driver does not reach."""
    return next((floor for floor in floors(option, profile) if numbers(driver) < numbers(floor.driver)), None)


def floors(option: BuildOption, profile: HostProfile) -> Iterator[Floor]:
    """Yield every floor of a candidate for a class: CUDA major, PTX, compilers on the host, cards."""
    major = numbers(cuda_of(option.variant) or "0")[0]
    for row in catalog().cuda_majors:
        if row.major == major:  # vLLM and torch share it
            why = f"CUDA {row.major} builds need driver {row.driver} or newer"
            yield Floor(row.driver, "driver-floor", why, row.source)
    yield from _ptx_floors(option, profile)
    # FlashAttention extensions without GPU code, which the host compiles
    for extension, using in attention.flash_extensions(option, profile).items():
        for compiler in catalog().flash_compilers:
            if (compiler.extension, compiler.major) == (extension, major):
                what = f"compiles FlashAttention {extension[-1]} for compute capability {', '.join(using)}"
                why = f"{compiler.name} {what}, which needs driver {compiler.driver} or newer"
                yield Floor(compiler.driver, "ptx", why, compiler.source)
    for card in architectures(profile):
        if card.first_driver:
            why = f"GPUs of compute capability {card.compute_capability} need driver {card.first_driver} or newer"
            yield Floor(card.first_driver, "driver-card", why, card.source)


def _ptx_floors(option: BuildOption, profile: HostProfile) -> Iterator[Floor]:
    for part in launched(option, profile):
        cuda = cuda_of(part.variant) or ""
        floor = native_floor(cuda)
        for capability in part.capabilities:
            if floor and coverage(part.codes, capability) is Coverage.PTX:
                only = f"{part.name} has only PTX of CUDA {cuda} for compute capability {capability}"
                yield Floor(floor, "ptx", f"{only}, which needs driver {floor} or newer", part.source)


def launched(option: BuildOption, profile: HostProfile) -> Iterator[LaunchedCode]:
    """Yield the GPU code that a candidate launches."""
    capabilities = profile.capabilities
    row, build = option.release, option.build
    if row is not None and build is not None:
        core = row.core_aarch64 if profile.machine == "aarch64" else row.core
        yield LaunchedCode("vLLM's main extension", core, build.variant, row.source, capabilities)
        for extension, using in attention.flash_extensions(option, profile).items():
            codes = {"fa2": row.fa2, "fa3": row.fa3}.get(extension, ())
            if codes:
                name = f"vLLM's FlashAttention {extension[-1]} extension"
                yield LaunchedCode(name, codes, build.variant, row.source, tuple(using))
    of_torch = torch_codes(option.torch.version, option.torch_variant, profile.machine)
    if of_torch is not None:
        name = f"torch {option.torch.version}"
        yield LaunchedCode(name, of_torch, option.torch_variant, option.torch.source, capabilities)


def architectures(profile: HostProfile) -> list[Architecture]:
    """Return the catalog's rows for the architectures of a class's cards."""
    rows = {row.compute_capability: row for row in catalog().architectures}
    return [rows[capability] for capability in profile.capabilities if capability in rows]


CURED = ("driver-floor", "ptx")
"""Rules whose refusal a newer user-mode driver resolves. It adds no support for cards."""


def choose_compat(option: BuildOption, profile: HostProfile) -> CudaCompat | None:
    """Return NVIDIA's forward compatibility libraries for a candidate: a newer CUDA on a driver that is too old, for data-centre cards; None if they are not needed, not allowed, or not possible."""
    if not profile.policy.cuda_compat or not needs_compat(option, profile) or compat_obstacle(option, profile):
        return None
    return compat_libraries(option)


def needs_compat(option: BuildOption, profile: HostProfile) -> bool:
    """Return whether a kept driver is too old for a candidate in a way that the libraries resolve."""
    plan = choose(option, profile)
    if plan is None or plan.action != "keep" or plan.version is None:
        return False
    floor = too_old(option, profile, plan.version)
    return floor is not None and floor.rule in CURED


def compat_obstacle(option: BuildOption, profile: HostProfile) -> str | None:
    """Return why the libraries cannot be installed on a class or would not run there."""
    package = compat_libraries(option).package
    other = next((card.name for card in profile.usable if card.row is None or card.row.kind != "data-centre"), None)
    if other is not None:
        return f"{package} supports data-centre GPUs; on {other} CUDA fails with error 803 or 804"
    branch = next((row for row in catalog().branches if row.branch == numbers(profile.driver or "0")[0]), None)
    if branch is None or branch.kind not in {"lts", "production"}:
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


def compat_libraries(option: BuildOption) -> CudaCompat:
    """Return a candidate's libraries: those of the newer CUDA of vLLM and torch."""
    cuda = max((cuda_of(variant) or "0" for variant in (option.variant, option.torch_variant)), key=numbers)
    (name,) = packages_of_component("cuda-compat", cuda=cuda)
    return CudaCompat(cuda=cuda, package=name, folder=f"/usr/local/cuda-{cuda}/compat")


def subnet_managed(profile: HostProfile) -> bool:
    """Return whether a subnet manager (nvlsm) runs the NVSwitches; these are network cards on the bus."""
    return bool(profile.cards) and all(card.row is not None and card.row.subnet_manager for card in profile.cards)


def switched(profile: HostProfile) -> bool | None:
    """Return whether the host has NVSwitches; None if only the cards can show it."""
    if profile.platform != "cuda":
        return False
    return None if subnet_managed(profile) else profile.nvswitches


def fabric_manager_version(profile: HostProfile, plan: DriverPlan | None) -> str | None:
    """Return the fabric manager's version, which is the driver's; None if this system needs none."""
    if plan is None or profile.foreign_driver or profile.fabric_below:
        return None
    found = switched(profile)
    if found is None and (first := next(iter(profile.cards), None)) and first.row and first.row.switched_board:
        # more than the half of a board that a VM can get: a board may lack a card (fabric manager user guide, shared NVSwitch)
        found = 2 * sum(card.name == first.name for card in profile.present) > first.row.switched_board
    return plan.version if found else None


def needs_fabric_manager(stack: Stack, facts: HostFacts) -> bool:
    """Return whether to install the fabric manager: with a new driver, or if it differs from a kept driver or does not run."""
    nvidia = facts.nvidia or Nvidia()
    if stack.fabric_manager is None or facts.container or facts.wsl:
        return False
    is_kept = stack.driver is not None and stack.driver.action == "keep"
    runs = nvidia.fabric_manager_state in {None, "active"}
    return not (is_kept and runs and nvidia.fabric_manager_version == stack.fabric_manager)
