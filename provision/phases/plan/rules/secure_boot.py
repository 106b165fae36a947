"""Secure Boot, under which a module that is built on the host loads only with an enrolled key."""

from collections.abc import Iterator

from provision.phases.plan import driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, rule, warn

SOURCE = (
    "docs.nvidia.com/datacenter/tesla/driver-installation-guide, Secure Boot; github.com/lcp/mokutil issues 61 and 69"
)


@rule(
    "The firmware knows the key of a driver that is installed under Secure Boot.",
    reads=("secure_boot", "settings.driver"),
    order=250,
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    plan = driver.choose(option, profile)
    if plan is None or plan.action == "keep":
        return
    on = profile.environment.secure_boot
    if on is None:
        yield assume("Secure Boot is off, or the key of the driver's module is enrolled")
    elif on and (row := driver.supply_of(option, profile).row) is not None and row.signed:
        text = f"Secure Boot is on, and {row.id} signs the modules of driver {plan.version}: no key must be enrolled"
        yield accept(text, source=row.source, secure_boot=True, action=plan.action)
    elif on:
        text = (
            f"Secure Boot is on: the module of driver {plan.version} loads only after you enroll its key "
            "(`mokutil --import`, then once at the console during boot) or disable Secure Boot"
        )
        yield warn(text, source=SOURCE, secure_boot=True, action=plan.action)
    else:
        yield accept("Secure Boot is off: the driver's module needs no enrolled key", source=SOURCE, secure_boot=False)
