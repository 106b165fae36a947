"""Whether the set was tried."""

from collections.abc import Iterator

from provision.phases.plan.build_option import BuildOption, proof
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, rule, warn

HOW = {
    "loaded": "tested: it was installed from its wheels, and every extension module loaded, on {on}",
    "served": "tested: it served a verified token on {on}",
}


@rule("The version combination was tested.", reads=(), order=900)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    if option.release is None:
        return
    row = proof(option, profile.machine)
    if row is None:
        yield warn(f"this combination is untested on {profile.machine or 'x86_64'}: it was never installed there")
    else:
        yield accept(HOW[row.how].format(on=row.on), source=row.source)
