"""NVIDIA's compatibility libraries: builds of a newer CUDA major on an older driver, for data-centre cards."""

from collections.abc import Iterator

from provision.phases.plan import compat, driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, reject, rule

SOURCE = "docs.nvidia.com/deploy/cuda-compatibility/forward-compatibility.html; vllm/env_override.py of vLLM 0.17.0"


@rule(
    "If the driver is too old, NVIDIA's compatibility libraries extend it where `cuda_compat` allows them, on data-centre GPUs only.",
    reads=("nvidia.driver_version", "nvidia.gpus", "settings.cuda_compat", "settings.driver"),
    order=280,
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    if not compat.lacks(option, profile):
        yield from _unused(option, profile)
        return
    facts = {"driver": profile.driver, "cards": sorted({card.name for card in profile.present})}
    package = compat.package(option)
    if why := compat.obstacle(option, profile):
        yield reject(why, source=SOURCE, **facts)
    elif profile.policy.cuda_compat:
        text = f"{package} extends driver {profile.driver}, only for the service and its checks"
        yield accept(text, source=SOURCE, **facts)
    else:
        text = f"`--set cuda_compat=true` would make it possible: {package} from NVIDIA's repository extends driver {profile.driver}"
        yield accept(text, source=SOURCE, **facts)


def _unused(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """Explain why allowed libraries are not installed: the driver of the Stack runs the candidate without them."""
    plan = driver.choose(option, profile) if profile.policy.cuda_compat else None
    if plan is None or plan.version is None:
        return
    which = {"keep": "kept", "install": "to be installed", "upgrade": "from `--driver upgrade`"}[plan.action]
    text = f"`--set cuda_compat=true` has no effect: driver {plan.version} ({which}) runs {option.variant} builds without it"
    yield accept(text, source=SOURCE, driver=plan.version, action=plan.action)
