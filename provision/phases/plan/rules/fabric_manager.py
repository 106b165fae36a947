"""On boards with NVSwitches the fabric manager is of the driver's version, to the last digit."""

from collections.abc import Iterator

from provision.phases.plan import driver, fabric
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Rule, Verdict, accept, assume, warn

SOURCE = "docs.nvidia.com/datacenter/tesla/fabric-manager-user-guide"


def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    plan = driver.choose(option, profile)
    version = fabric.version(profile, plan)
    if profile.fabric_below:
        text = "the cards have joined a fabric that the machine below manages: this VM needs no fabric manager"
        yield accept(text, source=SOURCE, fabric="Completed (Success)")
    if plan is None or version is None:
        return
    if fabric.switched(profile) is None:
        yield assume(f"{len(profile.cards)} cards of {profile.cards[0].name} sit on a board with NVSwitches")
    if profile.fabric_manager and profile.fabric_manager != version:
        text = f"fabric manager {profile.fabric_manager} is installed; it must be {version}, the driver's own version"
        yield warn(text, source=SOURCE, installed=profile.fabric_manager, needed=version)
    if fabric.subnet_managed(profile) and profile.environment.umad is False:
        yield warn("nvlsm talks to these NVSwitches through ib_umad, which is not loaded", source=SOURCE, ib_umad=False)
    beside = ", with nvlsm and ib_umad" if fabric.subnet_managed(profile) else ""
    yield accept(f"fabric manager {version}, equal to the driver{beside}", source=SOURCE, driver=plan.version)


RULE = Rule(
    id="fabric-manager",
    statement="The fabric manager equals the driver to the last digit.",
    reads=(
        "nvidia.nvswitches",
        "nvidia.driver_version",
        "nvidia.fabric_manager_version",
        "nvidia.fabric_state",
        "virtualization",
        "kernel_modules",
    ),
    evaluate=evaluate,
    order=230,
)
