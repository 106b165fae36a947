"""The newest gcc that an nvcc accepts."""

from collections.abc import Iterator

from provision.phases.plan import flashinfer
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, rule, warn


@rule("An nvcc that compiles at run time accepts the host's gcc.", reads=("cuda_toolkits", "programs"), order=200)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    if option.release is None or option.release.flashinfer is None or profile.platform != "cuda":
        return
    kits = flashinfer.of_major(option, profile)
    if not kits:
        return
    kit = (flashinfer.compiler(option, profile) or kits[-1]).version
    newest, source = flashinfer.newest_gcc(kit)
    gcc = profile.environment.gcc
    if gcc is None:
        yield assume(f"the host's gcc is not newer than {newest}, the limit of nvcc {kit}")
    elif gcc > newest:
        text = f"nvcc {kit} accepts gcc up to {newest}; the host has {gcc}, so nvcc cannot compile at run time"
        yield warn(text, source=source, gcc=gcc, toolkit=kit)
    else:
        yield accept(f"nvcc {kit} accepts gcc up to {newest}; the host has {gcc}", source=source, gcc=gcc, toolkit=kit)
