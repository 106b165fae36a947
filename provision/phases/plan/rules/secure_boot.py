"""With Secure Boot on, a kernel module that is built on the host loads only when its key is enrolled at the console."""

from collections.abc import Iterator

from provision.phases.plan import driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Rule, Verdict, accept, assume, warn

SOURCE = (
    "docs.nvidia.com/datacenter/tesla/driver-installation-guide, Secure Boot; github.com/lcp/mokutil issues 61 and 69"
)


def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    plan = driver.choose(option, profile)
    if plan is None or plan.action == "keep":
        return
    on = profile.environment.secure_boot
    if on is None:
        yield assume("Secure Boot is off, or the key that signs the driver's module is enrolled")
    elif on and (row := driver.supply_of(option, profile).row) is not None and row.signed:
        text = f"Secure Boot is on, and the modules of driver {plan.version} are signed by {row.id}: no key has to be enrolled"
        yield accept(text, source=row.source, secure_boot=True, action=plan.action)
    elif on:
        text = (
            f"Secure Boot is on: the module of driver {plan.version} loads only after its key is enrolled "
            "(`mokutil --import`, then once at the console while the host boots), or with Secure Boot off"
        )
        yield warn(text, source=SOURCE, secure_boot=True, action=plan.action)
    else:
        yield accept("Secure Boot is off: the driver's module needs no enrolled key", source=SOURCE, secure_boot=False)


RULE = Rule(
    id="secure-boot",
    statement="A driver that is installed under Secure Boot has a key that the firmware knows.",
    reads=("secure_boot", "settings.driver"),
    evaluate=evaluate,
    order=250,
)
