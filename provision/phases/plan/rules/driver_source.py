"""The packages of a driver to install, and the permission to install them."""

from collections.abc import Iterator
from typing import Any

from provision.catalog.packages import package_system
from provision.core.errors import UsageError
from provision.phases.plan import driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, reject, rule


@rule(
    "There are packages of a driver that is to be installed, and root can install them. They are the vendor's, or the distribution's if only those load under Secure Boot, if the vendor has none, or if the settings request them.",
    reads=("os.id", "os.version_id", "user", "secure_boot", "settings.driver_source", "settings.driver_repository"),
    order=80,
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    plan = driver.choose(option, profile)
    if plan is None or plan.action == "keep":
        return
    if profile.escalates is False:
        become = "; set `ansible_become: true` (this user has passwordless sudo)" if profile.sudo else ""
        text = f"driver {plan.version} must be installed, which needs root{become}"
        yield reject(text, action=plan.action, escalates=False)
    if profile.os_id is None:
        yield assume(f"driver {plan.version} has packages for the host's system")
        return
    supply = driver.supply_of(option, profile)
    system = f"{profile.os_id} {profile.os_version or ''}".rstrip()
    facts: dict[str, Any] = {
        "system": system,
        "packages": supply.source,
        "secure_boot": profile.environment.secure_boot,
    }
    if supply.source == "distribution":
        if supply.row is None:
            branch = f" of branch {plan.branch}" if profile.policy.driver == "pinned" else ""
            yield reject(
                f"`--set driver_source=distribution`: the catalog has no driver{branch} from {system}", **facts
            )
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
