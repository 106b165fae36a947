"""operators.sampling: frequencies of sampled tokens, and top-k and top-p filters."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from verify.inputs import normal
from verify.operators.check import Comparison, comparison_run
from verify.operators.reference import chi_square_share, softmax, steps, summed, truncated_probabilities

TOKENS = 8
DRAWS = 1_000_000
"""Number of draws: enough to show probabilities that are off by 2 %."""
RACES = 100_000
"""Number of draws by the method of engines on GPUs, which needs a random number per token."""
ROWS, VOCABULARY = 5, 2003
TOP_K, TOP_P = 50, 0.8


def _drawn(device: str, _dtype: str) -> Iterator[Comparison]:
    """Use a fixed seed: a device that passes once causes no false alarm later."""
    weights = [1 / (place + 1) for place in range(TOKENS - 1)]
    shares = [weight / math.fsum(weights) for weight in weights] + [0.0]
    torch.manual_seed(79)
    chances = torch.tensor(shares).to(device)
    once = torch.multinomial(chances, DRAWS, replacement=True)
    yield _as_often("multinomial", once, shares)
    apart = chances.repeat(3, 1)
    rows = torch.multinomial(apart, DRAWS // 10, replacement=True)
    yield _as_often("multinomial, last row", rows[-1], shares)
    race = torch.empty(RACES, TOKENS, device=device).exponential_()
    yield _as_often("race of exponentials", (chances / race).argmax(dim=-1), shares)


def _as_often(what: str, drawn: Tensor, shares: Sequence[float]) -> Comparison:
    """Compare Pearson's chi square of the frequencies with a bound that is exceeded once in a thousand million times."""
    share = chi_square_share(Counter(drawn.cpu().tolist()), shares)
    return Comparison(f"how often tokens come: {what}", torch.tensor(share), torch.zeros(()), lost=1.0)


def _left_out(device: str, _dtype: str) -> Iterator[Comparison]:
    """Return the probabilities after top-k and top-p from sorted rows and running sums, as engines filter them."""
    logits = normal(ROWS, VOCABULARY, seed=80, dtype="float32") * 3
    there = logits.to(device)
    for name, k, p in (("top-k", TOP_K, 1.0), ("top-p", VOCABULARY, TOP_P), ("top-k and top-p", TOP_K, TOP_P)):
        kept = [
            {token for token, share in enumerate(truncated_probabilities(row, k, p)) if share}
            for row in logits.tolist()
        ]
        masked = logits.clone()
        for row, tokens in enumerate(kept):
            masked[row, [token for token in range(VOCABULARY) if token not in tokens]] = -math.inf
        exact = softmax(masked)
        below = (logits.double().amax(dim=1, keepdim=True) - logits.double()) * exact
        result = _filtered(there, k, p)
        yield Comparison(name, result, exact, steps(exact) + steps(below) + summed(exact, VOCABULARY))
        drawn = torch.multinomial(result, 200, replacement=True)
        allowed = torch.zeros(ROWS, VOCABULARY)
        for row, tokens in enumerate(kept):
            allowed[row, list(tokens)] = 1
        yield Comparison(f"tokens drawn after {name}", allowed.gather(1, drawn.cpu()), torch.ones(ROWS, 200))


def _filtered(logits: Tensor, k: int, p: float) -> Tensor:
    values, places = logits.sort(dim=-1, descending=False)
    values = values.masked_fill(values < values[:, -k:][:, :1], -math.inf)
    running = values.softmax(dim=-1).cumsum(dim=-1)
    mask = running <= 1 - p
    mask[:, -1] = False
    values = values.masked_fill(mask, -math.inf)
    found: Tensor = torch.empty_like(values).scatter_(dim=-1, index=places, src=values).softmax(dim=-1)
    return found


run = comparison_run(_drawn, _left_out, dtypes=("float32",))
