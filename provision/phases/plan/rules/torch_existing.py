"""A torch that is on the host already is used only where it was seen."""

from collections.abc import Iterator

from provision.phases.plan import torch_pair
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import HostRule, Verdict, accept, reject


def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    if profile.policy.torch != "existing":
        return
    usable = profile.interpreters.pythons
    held = {python.path: python.torch for python in usable if python.torch}
    unfit = {path: why for path, torch in held.items() if (why := torch_pair.unfit(torch, profile.platform))}
    fitting = {path: torch for path, torch in held.items() if path not in unfit}
    if fitting:
        listed = " and ".join(f"torch {torch} of {path}" for path, torch in fitting.items())
        yield accept(f"the host has {listed}", torch=list(fitting.values()))
    elif held:
        text = "; ".join(f"torch {held[path]} of {path} {why}" for path, why in unfit.items())
        yield reject(text, torch=list(held.values()))
    else:
        seen = ", ".join(python.path for python in usable) or "none"
        text = f"`torch: existing` was asked for, and no Python of the host that the service may use holds a torch (seen: {seen})"
        yield reject(text, pythons=[python.path for python in usable])


RULE = HostRule(
    id="torch-existing",
    statement="An existing torch is there where one is to be used, and is a release for the host's devices.",
    reads=("pythons", "settings.torch", "settings.python"),
    evaluate=evaluate,
    order=40,
)
