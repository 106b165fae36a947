"""The attention back end: the requested one or the best one runs on every card with this release."""

from collections.abc import Iterable, Iterator
from typing import Any

from provision.phases.plan import attention
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile, Launch
from provision.phases.plan.rule import Verdict, accept, reject, rule


@rule(
    "Flash attention serves if every GPU and the release support them, else the best other back end.",
    reads=("nvidia.gpus", "settings.attention", "settings.dtype", "settings.flash_attn"),
    order=160,
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterable[Verdict]:
    return _evaluate(option.release.version, profile.launch) if option.release else ()


def _evaluate(version: str, launch: Launch) -> Iterator[Verdict]:
    choice = attention.choose_backend(version, launch)
    facts: dict[str, Any] = {
        "requested": launch.attention.requested,
        "compute_capability": sorted({capability or "unknown" for _, capability in launch.attention.kinds}),
    }
    if choice.plan is None:
        yield reject(choice.why, **facts)
        return
    generation = f", FlashAttention {choice.plan.generation}" if choice.plan.generation else ""
    yield accept(f"{choice.plan.backend}{generation}: {choice.why}", source=choice.source, **facts)
