"""Wheels for the host's processor architecture."""

from collections.abc import Iterable, Iterator

from provision.phases.plan import torch_pair
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, reject, rule

KNOWN = ("x86_64", "aarch64")


@rule("There is a wheel for the host's processor architecture.", reads=("os.machine",), order=20)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterable[Verdict]:
    return _evaluate(option, profile.machine, profile.platform, profile.policy.torch == "existing")


def _evaluate(option: BuildOption, machine: str | None, platform: str, existing: bool) -> Iterator[Verdict]:
    machines = option.build.machines if option.build else KNOWN
    if machine is None:
        yield assume("the processor architecture is x86_64")
    elif machine not in machines:
        source = option.build.source if option.build else None
        yield reject(
            f"the build is for {' and '.join(machines)}; the host is {machine}",
            source=source,
            machine=machine,
        )
    elif existing:
        yield accept(f"there is a vLLM wheel for {machine}, and the host has torch", machine=machine)
    elif platform == "cuda" and option.torch_variant not in torch_pair.offered(machine, option.torch):
        text = f"torch {option.torch.version} has no CUDA variant for {machine} that matches {option.variant}"
        yield reject(text, source=option.torch.source, machine=machine)
    elif option.torch_variant.startswith("rocm") and machine != "x86_64":
        yield reject(f"torch for ROCm is built for x86_64; the host is {machine}", machine=machine)
    else:
        yield accept(f"there is a wheel for {machine}", machine=machine)
