"""The groups whose members have access to AMD GPUs."""

from collections.abc import Iterator

from provision.catalog import catalog
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, host_rule, reject


@host_rule(
    "The service has access to the AMD GPUs.", reads=("user.groups", "user"), order=90, cause="rocm-device-permission"
)
def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    if profile.platform != "rocm":
        return
    needed = [row.name for row in catalog().access_groups]
    source = catalog().access_groups[0].source
    names = " and ".join(needed)
    missing = [name for name in needed if name not in (profile.environment.groups or ())]
    if profile.escalates:
        yield accept(f"the service's user becomes a member of {names}", source=source, groups=needed)
    elif profile.environment.groups is None:
        yield assume(f"the user is in the groups {names}, which have access to AMD GPUs")
    elif missing:
        text = f"this user is not in {' and '.join(missing)} and cannot open the GPUs; run `usermod -aG {','.join(missing)} USER` as root, then log in again"
        yield reject(text, source=source, missing=missing)
    else:
        yield accept(f"the user is in {names}", source=source, groups=needed)
