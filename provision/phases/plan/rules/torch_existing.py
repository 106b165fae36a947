"""The torch on the host, for `--set torch=existing`."""

from collections.abc import Iterator

from provision.phases.plan import torch_pair
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, host_rule, reject


@host_rule(
    "With `--set torch=existing` the host has a torch, and it is a release for the host's devices.",
    reads=("pythons", "settings.torch", "settings.python"),
    order=40,
)
def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    if profile.policy.torch != "existing":
        return
    usable = profile.interpreters.pythons
    found = {python.path: python.torch for python in usable if python.torch}
    unfit = {path: why for path, torch in found.items() if (why := torch_pair.unfit(torch, profile.platform))}
    fitting = {path: torch for path, torch in found.items() if path not in unfit}
    if fitting:
        listed = " and ".join(f"torch {torch} of {path}" for path, torch in fitting.items())
        yield accept(f"the host has {listed}", torch=list(fitting.values()))
    elif found:
        text = "; ".join(f"torch {found[path]} of {path} {why}" for path, why in unfit.items())
        yield reject(text, torch=list(found.values()))
    else:
        seen = ", ".join(python.path for python in usable) or "none"
        text = f"`--set torch=existing` needs a Python with torch that the service may use; the host has none (Pythons found: {seen})"
        yield reject(text, pythons=[python.path for python in usable])
