"""The NVIDIA driver of a candidate, and the lowest versions that it needs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from provision.catalog import catalog
from provision.catalog.rows.hardware import Architecture
from provision.catalog.versions import cuda_of, numbers
from provision.core.models.stack import DriverPlan
from provision.phases.plan import attention, driver_supply, torch_pair
from provision.phases.plan.advisories import advisories_of
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.driver_supply import Supply
from provision.phases.plan.gpu_code import Coverage, coverage
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
    fixed = _fixed(profile)
    if profile.driver and (short or fixed):
        plan = _installed("upgrade", option, profile, wanted="0" if short else fixed)
        if numbers(plan.version or "") > numbers(profile.driver):
            return plan
    return _kept(profile)


def _kept(profile: HostProfile) -> DriverPlan:
    return DriverPlan(action="keep", version=profile.driver, module=profile.module)


def _fixed(profile: HostProfile) -> str:
    """Return the vendor's fixed release of the driver's branch, if the driver is below it and may be replaced; else an empty text."""
    guest = any(card.virtual for card in profile.cards)
    if profile.policy.driver != "upgrade" or profile.escalates is False or guest or not profile.driver:
        return ""
    return max((row.fixed for row in advisories_of("nvidia-driver", profile.driver)), key=numbers, default="")


def replacement(profile: HostProfile) -> str | None:
    """Return the release that `--driver upgrade` would install; None if the present one is as new."""
    version = driver_supply.choose(replace(profile, policy=profile.policy.upgrading), "0").version
    return version if numbers(version) > numbers(profile.driver or "") else None


def is_pinned(profile: HostProfile) -> bool:
    """Return whether the present driver has the requested version or branch."""
    policy, present = profile.policy, numbers(profile.driver or "")
    if policy.driver_version:
        return present == numbers(policy.driver_version)
    return present[:1] == numbers(policy.driver_branch or "")


def supply_of(option: BuildOption, profile: HostProfile) -> Supply:
    """Return the source of a driver to install for a candidate."""
    return driver_supply.choose(profile, least_version(option, profile))


def _installed(action: DriverAction, option: BuildOption, profile: HostProfile, wanted: str = "0") -> DriverPlan:
    """Return the plan for a driver within one branch, or of the requested version.

    Args:
        wanted: The lowest version for which the driver is replaced, where its source has that.
    """
    least, requested = least_version(option, profile), profile.policy.driver_version
    found = driver_supply.choose(profile, least)
    branch = found.version.partition(".")[0]
    least = max(least, wanted, key=numbers) if numbers(wanted) <= numbers(found.version) else least
    return DriverPlan(
        action=action,
        version=found.version,
        module="proprietary" if found.row is not None and not found.row.open else _module(profile),
        source=found.source,
        branch=branch,
        at_least=requested or max(least, branch, key=numbers),
        below=_after(requested or branch),
    )


def _after(version: str) -> str:
    """Return the version with its last number increased: `580.95.05` gives `580.95.06`, and `580` gives `581`."""
    head, dot, last = version.rpartition(".")
    return f"{head}{dot}{int(last) + 1:0{len(last)}}"


def least_version(option: BuildOption, profile: HostProfile) -> str:
    """Return the highest of a candidate's floors."""
    return max((floor.driver for floor in floors(option, profile)), key=numbers, default="0")


def too_old(option: BuildOption, profile: HostProfile, driver: str) -> Floor | None:
    """Return the first floor that a driver does not reach."""
    return next((floor for floor in floors(option, profile) if numbers(driver) < numbers(floor.driver)), None)


def floors(option: BuildOption, profile: HostProfile) -> Iterator[Floor]:
    """Yield every floor of a candidate for a class: CUDA major, PTX, compilers on the host, cards."""
    yield from _major_floors(option.variant)
    yield from _ptx_floors(launched(option, profile))
    yield from _compiler_floors(option, profile)
    yield from _card_floors(profile)


def _major_floors(variant: str) -> Iterator[Floor]:
    """Yield the floor of the CUDA major, which vLLM and torch share."""
    cuda = cuda_of(variant)
    for row in catalog().cuda_majors:
        if cuda and row.major == numbers(cuda)[0]:
            why = f"CUDA {row.major} builds need driver {row.driver} or newer"
            yield Floor(row.driver, "driver-floor", why, row.source)


def _ptx_floors(parts: Iterable[LaunchedCode]) -> Iterator[Floor]:
    for part in parts:
        cuda = cuda_of(part.variant) or ""
        floor = torch_pair.native_floor(cuda)
        for capability in part.capabilities:
            if floor and coverage(part.codes, capability) is Coverage.PTX:
                only = f"{part.name} has only PTX of CUDA {cuda} for compute capability {capability}"
                yield Floor(floor, "ptx", f"{only}, which needs driver {floor} or newer", part.source)


def _compiler_floors(option: BuildOption, profile: HostProfile) -> Iterator[Floor]:
    """Yield the floors of FlashAttention extensions without GPU code, which the host compiles."""
    major = numbers(cuda_of(option.variant) or "0")[0]
    for extension, using in attention.flash_extensions(option, profile).items():
        for row in catalog().flash_compilers:
            if (row.extension, row.major) == (extension, major):
                why = f"{row.name} compiles FlashAttention {extension[-1]} for compute capability {', '.join(using)}"
                yield Floor(row.driver, "ptx", f"{why}, which needs driver {row.driver} or newer", row.source)


def _card_floors(profile: HostProfile) -> Iterator[Floor]:
    for row in architectures(profile):
        if row.first_driver:
            why = f"GPUs of compute capability {row.compute_capability} need driver {row.first_driver} or newer"
            yield Floor(row.first_driver, "driver-card", why, row.source)


def launched(option: BuildOption, profile: HostProfile) -> Iterator[LaunchedCode]:
    """Yield the GPU code that a candidate launches."""
    capabilities = profile.capabilities
    row, build = option.release, option.build
    if row is not None and build is not None:
        core = row.core_of(profile.machine)
        yield LaunchedCode("vLLM's main extension", core, build.variant, row.source, capabilities)
        for extension, using in attention.flash_extensions(option, profile).items():
            codes = {"fa2": row.fa2, "fa3": row.fa3}.get(extension, ())
            if codes:
                name = f"vLLM's FlashAttention {extension[-1]} extension"
                yield LaunchedCode(name, codes, build.variant, row.source, tuple(using))
    of_torch = torch_pair.torch_codes(option.torch.version, option.torch_variant, profile.machine)
    if of_torch is not None:
        name = f"torch {option.torch.version}"
        yield LaunchedCode(name, of_torch, option.torch_variant, option.torch.source, capabilities)


def architectures(profile: HostProfile) -> list[Architecture]:
    """Return the catalog's rows for the architectures of a class's cards."""
    rows = {row.compute_capability: row for row in catalog().architectures}
    return [rows[capability] for capability in profile.capabilities if capability in rows]


def _module(profile: HostProfile) -> Literal["open", "proprietary"]:
    """Return the kernel module for the cards: the one that a card needs, else the open one."""
    needed = {row.module for row in architectures(profile) if row.module_only}
    return "proprietary" if needed == {"proprietary"} and not profile.needs_open_module else "open"
