"""Statistics of sampled tokens: their frequencies against their probabilities, within top-k and top-p."""

import math
from collections.abc import Mapping, Sequence

from verify.tables import table

RARE = 5.0
"""Tokens with fewer expected draws are counted together, because Pearson's test needs larger counts."""


def truncated_probabilities(logits: Sequence[float], k: int, p: float) -> list[float]:
    """Return the probability of each token after top-k and then top-p: the fewest of the k likeliest that hold p of their sum."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])[:k]
    weights = [math.exp(logits[token] - logits[order[0]]) for token in order]
    total, held, number = math.fsum(weights), 0.0, 0
    while number < len(weights) and held < p * total:
        held += weights[number]
        number += 1
    found = [0.0] * len(logits)
    for token, weight in zip(order[:number], weights, strict=False):
        found[token] = weight / held
    return found


def chi_square_share(counts: Mapping[int, int], probabilities: Sequence[float]) -> float:
    """Return Pearson's chi square of the token frequencies as a share of `chi_square_bound`.

    Infinity if a drawn token does not exist or has no probability.
    """
    draws = sum(counts.values())
    possible = {token: draws * share for token, share in enumerate(probabilities) if share > 0}
    if not draws or not counts.keys() <= possible.keys():
        return math.inf
    rare = [token for token, expected in possible.items() if expected < RARE]
    cells = [(counts.get(token, 0), expected) for token, expected in possible.items() if expected >= RARE]
    if rare:
        cells.append((sum(counts.get(token, 0) for token in rare), math.fsum(possible[token] for token in rare)))
    square = math.fsum((count - expected) ** 2 / expected for count, expected in cells)
    return square / chi_square_bound(len(cells) - 1)


def chi_square_bound(freedom: int) -> float:
    """Return the chi square that a correct device almost never exceeds, for a number of degrees of freedom.

    It is k + 2 sqrt(k t) + 2 t for k degrees, exceeded with a probability of at most exp(-t).
    """
    t = -math.log(table("tolerances")["sampling"]["false_alarm"])
    return freedom + 2 * math.sqrt(freedom * t) + 2 * t
