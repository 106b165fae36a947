"""The C library: wheels of vLLM and torch need glibc."""

from collections.abc import Iterator

from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, host_rule, reject


@host_rule("The host's C library is glibc.", reads=("os.libc",), order=10, cause="musl")
def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    if profile.libc == "musl":
        yield reject("the host's C library is musl; vLLM and torch publish wheels for glibc only", libc="musl")
    elif profile.libc is None:
        yield assume("the C library is glibc")
    else:
        yield accept("the C library is glibc", libc=profile.libc)
