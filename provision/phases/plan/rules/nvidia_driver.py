"""The NVIDIA driver: its version, branch, source and module, and what belongs to it."""

from collections.abc import Iterator
from typing import Any

from provision.catalog import catalog
from provision.catalog.packages import package_system
from provision.catalog.versions import numbers
from provision.core.errors import UsageError
from provision.core.models.stack import DriverPlan
from provision.phases.plan import driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, host_rule, reject, rule, warn


@host_rule(order=60)
def driver_answers(profile: HostProfile) -> Iterator[Verdict]:
    """A loaded driver answers, or may be reinstalled."""
    row = next((row for row in catalog().driver_faults if row.name == profile.driver_fault), None)
    if row is None:
        return
    facts: dict[str, Any] = {"driver": profile.driver, "fault": row.name}
    text = f"driver {profile.driver or 'of unknown version'} is loaded and does not answer: {row.text}"
    if profile.driver_reinstalled:
        yield accept(f"{text}; `--driver {profile.policy.driver_setting}` reinstalls it", source=row.source, **facts)
        return
    where = "on the machine that owns the driver: " if profile.foreign_driver else ""
    again = "" if profile.foreign_driver else "; or let Firstlight reinstall it: `--driver install` and `--reboot`"
    yield reject(f"{text}; {where}{row.remedy}{again}", source=row.source, **facts)


@host_rule(
    order=50,
    source="docs.nvidia.com/cuda/wsl-user-guide: no Linux driver is to be installed within WSL; github.com/NVIDIA/nvidia-container-toolkit",
)
def foreign_driver(profile: HostProfile) -> Iterator[Verdict]:
    """In a container and under WSL the driver belongs to the underlying machine and stays unchanged."""
    if profile.platform != "cuda":
        return
    owner = profile.foreign_driver
    facts: dict[str, Any] = {"container": profile.container, "wsl": profile.wsl}
    if owner and profile.driver_absent:
        text = f"this is {owner} without a visible NVIDIA driver, and a driver cannot be installed from inside it"
        yield reject(text, **facts, driver=None)
    elif owner and profile.policy.driver == "pinned" and not driver.is_pinned(profile):
        wanted = profile.policy.driver_setting
        text = f"`--driver {wanted}` has no effect in {owner}: the driver stays at {profile.driver or 'an unknown version'}"
        yield warn(text, **facts, driver=profile.driver, requested=wanted)
    elif owner:
        yield accept(f"in {owner} the driver stays unchanged", **facts)
    elif not profile.container_known:
        yield assume("the host is not a container")


def _reached(rule_id: str, option: BuildOption, profile: HostProfile, plan: DriverPlan) -> Iterator[Verdict]:
    """Yield a verdict for each floor of one rule; none if the driver's version is unknown."""
    if not plan.version:
        return
    libraries = driver.choose_compat(option, profile) if rule_id in driver.CURED else None
    for floor in driver.floors(option, profile):
        if floor.rule == rule_id:
            short = numbers(plan.version) < numbers(floor.driver)
            verdict_of = reject if short and libraries is None else accept
            extended = f", extended by {libraries.package}" if short and libraries else ""
            text = f"{floor.why}; the driver is {plan.version}{extended}"
            yield verdict_of(text, source=floor.source, driver=plan.version, floor=floor.driver)


@rule(order=40, cause="driver-too-old")
def driver_floor(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """The driver runs builds of this CUDA major."""
    plan = driver.choose(option, profile)
    if plan is None:
        return
    yield from _reached("driver-floor", option, profile, plan)
    if plan.version is None:
        yield assume(f"the NVIDIA driver is {driver.least_version(option, profile)} or newer")


@rule(order=170, cause="ptx-toolchain")
def ptx(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """If an extension that is launched has only PTX for a GPU, or is compiled on the host, the driver is as new as the toolkit."""
    plan = driver.choose(option, profile)
    if plan is not None:
        yield from _reached("ptx", option, profile, plan)


@rule(order=50)
def driver_card(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """The driver's branch supports every GPU."""
    plan = driver.choose(option, profile)
    if plan is None or plan.version is None:
        return
    yield from _reached("driver-card", option, profile, plan)
    for row in driver.architectures(profile):
        if row.last_branch and numbers(plan.version)[0] > row.last_branch:
            text = f"branch {row.last_branch} is the last that supports {row.name}; the driver is {plan.version}"
            yield reject(text, source=row.source, driver=plan.version, last_branch=row.last_branch)


@rule(order=60)
def driver_module(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """The kernel module has the flavour that the GPUs need."""
    plan = driver.choose(option, profile)
    if plan is None or plan.module is None or not driver.architectures(profile):
        return
    demanding = [row for row in driver.architectures(profile) if row.module_only]
    source = demanding[0].source if demanding else None
    if {row.module for row in demanding} - {plan.module}:
        needs = " and ".join(f"{row.name} needs the {row.module} kernel module" for row in demanding)
        yield reject(f"{needs}; the {plan.module} one is loaded", source=source, module=plan.module)
    else:
        yield accept(f"the {plan.module} kernel module supports the GPUs", source=source, module=plan.module)


@rule(
    order=70,
    source="docs.nvidia.com/vgpu, release notes: guest driver and vGPU manager are of one release branch or the pairs listed there",
)
def vgpu(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """The guest driver of a vGPU stays unchanged, since it matches the hypervisor."""
    plan = driver.choose(option, profile)
    virtual = [card for card in profile.cards if card.virtual]
    if plan is None or not virtual:
        return
    facts: dict[str, Any] = {"virtual": [card.index for card in virtual], "driver": plan.version}
    if plan.action == "keep":
        yield accept(f"{virtual[0].name} is a vGPU: its guest driver stays unchanged", **facts)
    else:
        text = f"{virtual[0].name} is a vGPU: driver {plan.version} is not the guest driver for the hypervisor's vGPU manager"
        yield reject(text, **facts)


@rule(order=80)
def driver_source(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """There are packages of a driver that is to be installed, and root can install them. They are the vendor's, or the distribution's if only those load under Secure Boot, if the vendor has none, or if the settings request them."""
    plan = driver.choose(option, profile)
    if plan is None or plan.action == "keep":
        return
    if profile.escalates is False:
        text = f"driver {plan.version} must be installed, which needs root; use {profile.way_to_root}"
        yield reject(text, action=plan.action, escalates=False)
    if profile.os_id is None:
        yield assume(f"driver {plan.version} has packages for the host's system")
        return
    supply = driver.supply(profile, driver.least_version(option, profile))
    system = f"{profile.os_id} {profile.os_version or ''}".rstrip()
    facts: dict[str, Any] = {"system": system, "packages": supply.source, "secure_boot": profile.secure_boot}
    if supply.source == "distribution":
        if supply.row is None:
            branch = f" of branch {plan.branch}" if profile.policy.driver == "pinned" else ""
            text = f"`--set driver_source=distribution`: the catalog has no driver{branch} from {system}"
            yield reject(text, **facts)
            return
        text = f"driver {plan.version} comes from the packages of {system}: {supply.why}"
        yield accept(text, source=supply.row.source, **facts)
        return
    try:
        row = package_system(profile.os_id, profile.os_version)
    except UsageError as error:
        yield reject(f"driver {plan.version} must be installed: {error.text}; {error.hint}", **facts)
        return
    text = f"driver {plan.version} comes from the vendor's packages for {system}: {supply.why}"
    yield accept(text, source=row.source, **facts)


@rule(
    order=240,
    source="github.com/NVIDIA/ansible-role-nvidia-driver issue 51; docs.nvidia.com driver-installation-guide, disabling nouveau",
)
def rival_module(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """No other kernel module uses the GPUs."""
    plan = driver.choose(option, profile)
    if plan is None or profile.foreign_driver:
        return
    if profile.rivals:
        names = " and ".join(profile.rivals)
        by_hand = "disable it, also in the initramfs, and reboot"
        what = by_hand if plan.action == "keep" else "a run disables it, and may have to restart the host for that"
        text = f"{names} is loaded and may use the GPUs: {what}"
        yield warn(text, modules=list(profile.rivals), action=plan.action)
    elif plan.action == "install":
        yield accept("no other driver uses the GPUs", modules=[])


@rule(
    order=250,
    source="docs.nvidia.com/datacenter/tesla/driver-installation-guide, Secure Boot; github.com/lcp/mokutil issues 61 and 69",
)
def secure_boot(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """The firmware knows the key of a driver that is installed under Secure Boot."""
    plan = driver.choose(option, profile)
    if plan is None or plan.action == "keep":
        return
    on = profile.secure_boot
    if on is None:
        yield assume("Secure Boot is off, or the key of the driver's module is enrolled")
    elif on and (row := driver.supply(profile, driver.least_version(option, profile)).row) is not None and row.signed:
        text = f"Secure Boot is on, and {row.id} signs the modules of driver {plan.version}: no key must be enrolled"
        yield accept(text, source=row.source, secure_boot=True, action=plan.action)
    elif on:
        text = (
            f"Secure Boot is on: the module of driver {plan.version} loads only after you enroll its key "
            "(`mokutil --import`, then once at the console during boot) or disable Secure Boot"
        )
        yield warn(text, secure_boot=True, action=plan.action)
    else:
        yield accept("Secure Boot is off: the driver's module needs no enrolled key", secure_boot=False)


@rule(order=230, source="docs.nvidia.com/datacenter/tesla/fabric-manager-user-guide")
def fabric_manager(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """The fabric manager has exactly the version of the driver."""
    plan = driver.choose(option, profile)
    version = driver.fabric_manager_version(profile, plan)
    if profile.fabric_below:
        text = "the hypervisor manages the fabric of these GPUs: this VM needs no fabric manager"
        yield accept(text, fabric="Completed (Success)")
    if plan is None or version is None:
        return
    if driver.switched(profile) is None:
        yield assume(f"the {len(profile.cards)} {profile.cards[0].name} GPUs are on a board with NVSwitches")
    if profile.fabric_manager and profile.fabric_manager != version:
        text = f"fabric manager {profile.fabric_manager} is installed; it must be {version}, the version of the driver"
        yield warn(text, installed=profile.fabric_manager, needed=version)
    if driver.subnet_managed(profile) and profile.umad is False:
        text = "nvlsm needs the kernel module ib_umad for these NVSwitches, and it is not loaded"
        yield warn(text, ib_umad=False)
    additions = ", with nvlsm and ib_umad" if driver.subnet_managed(profile) else ""
    yield accept(f"fabric manager {version}, equal to the driver{additions}", driver=plan.version)


@rule(order=270)
def driver_branch(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """A driver branch without support is reported. Under WSL the driver has the number of Windows, whose branches are others."""
    plan = driver.choose(option, profile)
    if plan is None or plan.version is None or profile.wsl:
        return
    row = next((row for row in catalog().branches if row.branch == numbers(plan.version)[0]), None)
    if row is None:
        yield warn(f"driver {plan.version} belongs to a branch that is not in the catalog", driver=plan.version)
    elif row.end_of_life == "ended":
        yield warn(f"driver branch {row.branch} gets no more fixes", source=row.source, driver=plan.version)
    elif row.end_of_life and row.end_of_life < catalog().driver_offer.as_of:
        text = f"driver branch {row.branch} has received no fixes since {row.end_of_life}"
        yield warn(text, source=row.source, driver=plan.version)
    elif row.end_of_life:
        text = f"driver branch {row.branch} gets fixes until {row.end_of_life}"
        yield accept(text, source=row.source, driver=plan.version)


@rule(
    order=280,
    source="docs.nvidia.com/deploy/cuda-compatibility/forward-compatibility.html; vllm/env_override.py of vLLM 0.17.0",
)
def cuda_compat(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """If the driver is too old, NVIDIA's compatibility libraries extend it where `cuda_compat` allows them, on data-centre GPUs only."""
    if not driver.needs_compat(option, profile):
        return
    facts: dict[str, Any] = {"driver": profile.driver, "cards": sorted({card.name for card in profile.usable})}
    package = driver.compat_libraries(option).package
    if why := driver.compat_obstacle(option, profile):
        yield reject(why, **facts)
    elif profile.policy.cuda_compat:
        text = f"{package} extends driver {profile.driver}, only for the service and its checks"
        yield accept(text, **facts)
    else:
        text = f"`--set cuda_compat=true` would make it possible: {package} from NVIDIA's repository extends driver {profile.driver}"
        yield accept(text, **facts)
