"""Cards of several kinds: one kind serves, the plan names the others."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from provision.phases.plan.cards import AmdCard, Card
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, host_rule, warn


@host_rule(
    "Only GPUs of one kind serve: of the kinds that the newest release supports, the one with the most memory in total on the host. Integrated graphics serve only if there is no other GPU. The plan names the other GPUs, which limit nothing.",
    reads=("nvidia.gpus", "amd.gpus", "settings.gpus"),
    order=70,
)
def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    serve = profile.serving
    present: tuple[Card | AmdCard, ...] = (*profile.present, *profile.present_amd)
    left = [card for card in present if card not in serve]
    if not serve:
        return
    facts: dict[str, Any] = {"serve": [card.index for card in serve], "left_out": _listed(left) or None}
    if left and profile.policy.gpus is None:
        yield warn(f"{_listed(serve)} serve; left out: {_listed(left)}: {_why(profile, left)}", **facts)
    elif len(serve) > 1 and len({card.kind for card in serve}) == 1:
        yield accept(f"{_listed(serve)} are of one kind and serve together", **facts)
    for name in dict.fromkeys(card.name for card in profile.cards if card.row is None):
        yield assume(f"{name} behaves as its compute capability implies (it is not in the catalog)")


def _why(profile: HostProfile, left: Sequence[Card | AmdCard]) -> str:
    if profile.cards and profile.present_amd:
        return "no build runs on NVIDIA and AMD GPUs together"
    if all(isinstance(card, AmdCard) and card.integrated for card in left):
        return "integrated graphics serve only if there is no other GPU"
    return "only one kind of GPU serves, the one with the most memory in total; `gpus` selects other GPUs"


def _listed(cards: Sequence[Card | AmdCard]) -> str:
    return ", ".join(f"{count}x {name}" for name, count in Counter(card.name for card in cards).items())
