"""The interpreter that the settings name is there."""

from collections.abc import Iterator

from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rules.base import HostRule, Verdict, accept, assume, reject


def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    asked = profile.policy.python
    if asked is None:
        return
    there = next((python for python in profile.pythons if python.path == asked), None)
    if there is not None:
        yield accept(f"Python {there.version} of {asked} is there, and no other of the host is used", python=asked)
    elif not profile.pythons_known:
        yield assume(f"{asked} is a Python that the service's user can read")
    else:
        seen = [python.path for python in profile.pythons]
        text = f"`python: {asked}` is absent, does not run, or lies in a home that the service's user cannot read"
        yield reject(f"{text} (seen: {', '.join(seen) or 'none'})", python=asked, pythons=seen)


RULE = HostRule(
    "python-asked", "The interpreter that was asked for is there.", ("pythons", "settings.python"), evaluate
)
