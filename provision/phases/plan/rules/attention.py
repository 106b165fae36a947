"""An attention back end that was asked for, or the best one, runs on every card with this release."""

from collections.abc import Iterable, Iterator
from typing import Any

from provision.phases.plan import attention
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile, Launch
from provision.phases.plan.rules.base import Rule, Verdict, accept, memoized, reject


def evaluate(option: BuildOption, profile: HostProfile) -> Iterable[Verdict]:
    return _evaluate(option.release.version, profile.launch) if option.release else ()


@memoized
def _evaluate(version: str, launch: Launch) -> Iterator[Verdict]:
    chosen = attention.chosen(version, launch)
    facts: dict[str, Any] = {
        "asked": launch.attention.asked,
        "compute_capability": sorted({capability or "unknown" for _, capability in launch.attention.kinds}),
    }
    if chosen.plan is None:
        yield reject(chosen.why, **facts)
        return
    generation = f", FlashAttention {chosen.plan.generation}" if chosen.plan.generation else ""
    yield accept(f"{chosen.plan.backend}{generation}: {chosen.why}", source=chosen.source, **facts)


RULE = Rule(
    "attention",
    "Flash kernels serve wherever every card and the release can, else the best other back end.",
    ("nvidia.gpus", "settings.attention", "settings.dtype", "settings.flash_attn"),
    evaluate,
)
