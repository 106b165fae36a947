"""Cards of different kinds: the equal ones serve, the others are named."""

from collections import Counter
from collections.abc import Iterator

from provision.resolve.rules.base import HostRule, Verdict, accept, assume, warn
from provision.resolve.view import View


def judge(view: View) -> Iterator[Verdict]:
    left = [card for card in view.cards if card not in view.used]
    if left:
        others = ", ".join(f"{count}x {name}" for name, count in Counter(card.name for card in left).items())
        text = f"{len(view.used)}x {view.used[0].name} serve; left out: {others} (their limits count all the same)"
        yield warn(text, used=[card.index for card in view.used], left_out=[card.index for card in left])
    elif len(view.used) > 1:
        yield accept(f"{len(view.used)}x {view.used[0].name} are equal and serve together", used=len(view.used))
    if view.cards and view.amd:
        amd = ", ".join(f"{count}x {name}" for name, count in Counter(card.name for card in view.amd).items())
        yield warn(
            f"the NVIDIA cards serve; left out: {amd} of AMD, for which no build is made that runs on both", amd=amd
        )
    for name in dict.fromkeys(card.name for card in view.cards if card.row is None):
        yield assume(f"{name} is not in the catalog: planned by its compute capability alone")


RULE = HostRule(
    "mixed-cards",
    "Equal cards serve together; others are left out and named.",
    ("nvidia.gpus", "amd.gpus", "settings.gpus"),
    judge,
)
