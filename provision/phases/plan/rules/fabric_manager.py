"""The version of the fabric manager on boards with NVSwitches."""

from collections.abc import Iterator

from provision.phases.plan import driver, fabric
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, rule, warn

SOURCE = "docs.nvidia.com/datacenter/tesla/fabric-manager-user-guide"


@rule(
    "The fabric manager has exactly the version of the driver.",
    reads=(
        "nvidia.nvswitches",
        "nvidia.driver_version",
        "nvidia.fabric_manager_version",
        "nvidia.fabric_state",
        "virtualization",
        "kernel_modules",
    ),
    order=230,
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    plan = driver.choose(option, profile)
    version = fabric.version(profile, plan)
    if profile.fabric_below:
        text = "the hypervisor manages the fabric of these GPUs: this VM needs no fabric manager"
        yield accept(text, source=SOURCE, fabric="Completed (Success)")
    if plan is None or version is None:
        return
    if fabric.switched(profile) is None:
        yield assume(f"the {len(profile.cards)} {profile.cards[0].name} GPUs are on a board with NVSwitches")
    if profile.fabric_manager and profile.fabric_manager != version:
        text = f"fabric manager {profile.fabric_manager} is installed; it must be {version}, the version of the driver"
        yield warn(text, source=SOURCE, installed=profile.fabric_manager, needed=version)
    if fabric.subnet_managed(profile) and profile.environment.umad is False:
        yield warn(
            "nvlsm needs the kernel module ib_umad for these NVSwitches, and it is not loaded",
            source=SOURCE,
            ib_umad=False,
        )
    additions = ", with nvlsm and ib_umad" if fabric.subnet_managed(profile) else ""
    yield accept(f"fabric manager {version}, equal to the driver{additions}", source=SOURCE, driver=plan.version)
