"""NVIDIA's compatibility libraries run builds of a newer CUDA major under an older driver, on data-centre cards."""

from collections.abc import Iterator

from provision.phases.plan import compat, driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Rule, Verdict, accept, reject

SOURCE = "docs.nvidia.com/deploy/cuda-compatibility/forward-compatibility.html; vllm/env_override.py of vLLM 0.17.0"


def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    if not compat.lacks(option, profile):
        yield from _unused(option, profile)
        return
    facts = {"driver": profile.driver, "cards": sorted({card.name for card in profile.present})}
    package = compat.package(option)
    if why := compat.obstacle(option, profile):
        yield reject(why, source=SOURCE, **facts)
    elif profile.policy.cuda_compat:
        text = f"{package} stands in for driver {profile.driver}, for the service and its checks alone"
        yield accept(text, source=SOURCE, **facts)
    else:
        text = (
            f"with `cuda_compat: true` it could: {package} of NVIDIA's repository stands in for driver {profile.driver}"
        )
        yield accept(text, source=SOURCE, **facts)


def _unused(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """Says why libraries that were allowed do not come: the Stack's driver, kept or brought, runs the candidate itself."""
    plan = driver.choose(option, profile) if profile.policy.cuda_compat else None
    if plan is None or plan.version is None:
        return
    which = {"keep": "which stays", "install": "which is brought", "upgrade": "which `driver: upgrade` brings"}[
        plan.action
    ]
    text = f"`cuda_compat: true` stays unused: driver {plan.version}, {which}, runs {option.variant} builds itself"
    yield accept(text, source=SOURCE, driver=plan.version, action=plan.action)


RULE = Rule(
    id="cuda-compat",
    statement="Under a driver that is too old, NVIDIA's compatibility libraries stand in where they are asked for, on data-centre cards alone.",
    reads=("nvidia.driver_version", "nvidia.gpus", "settings.cuda_compat", "settings.driver"),
    evaluate=evaluate,
    order=280,
)
