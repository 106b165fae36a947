"""An attention back end that was asked for, or the best one, runs on every card with this release."""

from collections.abc import Iterator
from typing import Any

from provision.resolve import attention
from provision.resolve.option import Option
from provision.resolve.rules.base import Rule, Verdict, accept, reject
from provision.resolve.view import View


def judge(option: Option, view: View) -> Iterator[Verdict]:
    if option.release is None:
        return
    chosen = attention.choose(option, view)
    facts: dict[str, Any] = {
        "asked": view.policy.attention,
        "compute_capability": sorted({card.compute_capability or "unknown" for card in view.cards}),
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
    judge,
)
