"""The host's memory for the service with the built-in model."""

from collections.abc import Iterator

from provision.catalog import catalog
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, host_rule, reject


@host_rule("The host's memory, or its cgroup's limit, is enough for the service.", reads=("memory",), order=100)
def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    need = catalog().needs[profile.platform]
    if profile.ram_gib is None:
        yield assume(f"at least {need.memory:g} GiB of host memory")
    elif profile.ram_gib < need.memory:
        text = (
            f"the host has {profile.ram_gib} GiB of memory (cgroup limit included); serving needs {need.memory:g} GiB"
        )
        yield reject(text, source=need.source, ram_gib=profile.ram_gib, needed_gib=need.memory)
    else:
        yield accept(
            f"serving needs {need.memory:g} GiB of memory, and the host has it",
            source=need.source,
            needed_gib=need.memory,
        )
