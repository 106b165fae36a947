"""The source of NCCL."""

from collections.abc import Iterator

from provision.catalog.versions import cuda_of, numbers
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, rule, warn

SOURCE = "github.com/vllm-project/vllm issue 4195; github.com/pytorch/pytorch issue 122571"


@rule("NCCL is the one that torch pins.", reads=("libraries", "settings.env"), order=210)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    if profile.platform != "cuda":
        return
    environment = profile.environment
    facts = {"system": environment.nccl, "variables": list(environment.library_variables)}
    if environment.library_variables and (environment.nccl or "VLLM_NCCL_SO_PATH" in environment.library_variables):
        present = f"the system has {environment.nccl}" if environment.nccl else "names a path"
        text = f"`firstlight_env` sets {' and '.join(environment.library_variables)} and {present}: it may replace the NCCL that torch needs"
        yield warn(text, source=SOURCE, **facts)
    else:
        wheel = f"nvidia-nccl-cu{numbers(cuda_of(option.torch_variant) or '0')[0]}"
        unused = f"; {environment.nccl} of the system is not used" if environment.nccl else ""
        yield accept(f"NCCL is {wheel}, as torch pins it{unused}", source=SOURCE, **facts)
