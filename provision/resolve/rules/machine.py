"""A wheel exists for the host's processor architecture."""

from collections.abc import Iterator

from provision.resolve import torch_pair
from provision.resolve.option import Option
from provision.resolve.rules.base import Rule, Verdict, accept, assume, reject
from provision.resolve.view import View

KNOWN = ("x86_64", "aarch64")


def judge(option: Option, view: View) -> Iterator[Verdict]:
    machines = option.build.machines if option.build else KNOWN
    if view.machine is None:
        yield assume("the processor architecture is x86_64")
    elif view.machine not in machines:
        source = option.build.source if option.build else None
        yield reject(
            f"the build is for {' and '.join(machines)}, the host is {view.machine}",
            source=source,
            machine=view.machine,
        )
    elif view.policy.torch == "existing":
        yield accept(f"there is a vLLM wheel for {view.machine}, and torch is there", machine=view.machine)
    elif view.platform == "cuda" and option.torch_variant not in torch_pair.offered(view.machine, option.torch):
        text = f"torch {option.torch.version} has no CUDA variant for {view.machine} that goes with {option.variant}"
        yield reject(text, source=option.torch.source, machine=view.machine)
    elif option.torch_variant.startswith("rocm") and view.machine != "x86_64":
        yield reject(f"torch for ROCm is built for x86_64, the host is {view.machine}", machine=view.machine)
    else:
        yield accept(f"there is a wheel for {view.machine}", machine=view.machine)


RULE = Rule("machine", "There is a wheel for the host's processor architecture.", ("os.machine",), judge)
