"""How GPU code covers a card: natively, as PTX through the driver's compiler, or not."""

from collections.abc import Iterable
from enum import Enum
from functools import cache

from provision.catalog.versions import numbers


class Coverage(Enum):
    NATIVE = "native"
    PTX = "ptx"
    NONE = "none"


@cache
def coverage(codes: tuple[str, ...], compute_capability: str) -> Coverage:
    """Return how a set of codes covers a card.

    Native code runs on a card of the same major number and an equal or higher minor one; PTX on any equal or newer card.
    """
    card = numbers(compute_capability)
    if any(_pair(item)[0] == card[0] and _pair(item)[1] <= card[1] for item in codes if not item.startswith("p")):
        return Coverage.NATIVE
    if any(_pair(item[1:]) <= card for item in codes if item.startswith("p")):
        return Coverage.PTX
    return Coverage.NONE


def all_native(codes: tuple[str, ...], compute_capabilities: Iterable[str]) -> bool:
    """Return whether codes contain native code for every card."""
    return all(coverage(codes, card) is Coverage.NATIVE for card in compute_capabilities)


def written(codes: Iterable[str]) -> str:
    """Return codes as NVIDIA writes them: `sm_80, compute_80`."""
    return ", ".join(f"compute_{item[1:]}" if item.startswith("p") else f"sm_{item}" for item in codes)


def _pair(digits: str) -> tuple[int, int]:
    return int(digits[:-1]), int(digits[-1])
