"""Libraries and programs of the distribution."""

from collections.abc import Iterator

from provision.catalog import catalog
from provision.catalog.system import install_command, os_packages
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, host_rule, reject


@host_rule(
    "Libraries and compilers of the distribution are installed, or the user may install them.",
    reads=("libraries", "programs", "user", "os.package_manager"),
    order=130,
)
def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    for name in profile.unsure:
        yield assume(f"{name} is installed on the host")
    if not profile.lacking:
        return
    names = ", ".join(profile.lacking)
    why = "; ".join(f"{need.name}: {need.why}" for need in catalog().system_needs if need.name in profile.lacking)
    if profile.escalates is None:
        yield assume(f"{names} can be installed on the host")
    elif profile.escalates:
        yield accept(f"{names} will be installed from the distribution ({why})", lacking=list(profile.lacking))
    else:
        become = ", or set `ansible_become: true` (this user has passwordless sudo)" if profile.sudo else ""
        yield reject(
            f"the host lacks {names} ({why}), and installation needs root; {_how_to_install(profile)}{become}",
            lacking=list(profile.lacking),
            escalates=False,
        )


def _how_to_install(profile: HostProfile) -> str:
    manager = profile.manager or ""
    if manager not in catalog().install_commands:
        return "install their packages"
    packages = os_packages(
        profile.lacking, manager=manager, python="3", os_id=profile.os_id, os_version=profile.os_version
    )
    return f"run `{install_command(packages, manager=manager)}`"
