"""The interpreter that the settings name is there."""

from collections.abc import Iterator

from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import HostRule, Verdict, accept, assume, reject


def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    requested = profile.policy.python
    if requested is None:
        return
    there = next((python for python in profile.pythons if python.path == requested), None)
    if there is not None:
        yield accept(
            f"Python {there.version} of {requested} is there, and no other of the host is used", python=requested
        )
    elif not profile.pythons_known:
        yield assume(f"{requested} is a Python that the service's user can read")
    else:
        seen = [python.path for python in profile.pythons]
        text = f"`python: {requested}` is absent, does not run, or lies in a home that the service's user cannot read"
        yield reject(f"{text} (seen: {', '.join(seen) or 'none'})", python=requested, pythons=seen)


RULE = HostRule(
    id="python-requested",
    statement="The interpreter that was asked for is there.",
    reads=("pythons", "settings.python"),
    evaluate=evaluate,
    order=30,
)
