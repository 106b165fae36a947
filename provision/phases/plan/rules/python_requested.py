"""The interpreter in the setting `python`."""

from collections.abc import Iterator

from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, host_rule, reject


@host_rule("The requested interpreter exists.", reads=("pythons", "settings.python"), order=30)
def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    requested = profile.policy.python
    if requested is None:
        return
    found = next((python for python in profile.pythons if python.path == requested), None)
    if found is not None:
        yield accept(f"Python {found.version} of {requested} is used, and no other of the host", python=requested)
    elif not profile.pythons_known:
        yield assume(f"{requested} is a Python that the service's user can read")
    else:
        seen = [python.path for python in profile.pythons]
        text = f"`--set python={requested}` does not exist, does not run, or is in a home that the service's user cannot read"
        yield reject(f"{text} (found: {', '.join(seen) or 'none'})", python=requested, pythons=seen)
