"""operators.vllm_sampler: vLLM's sampling, argmax and repetition penalty."""

import math
from collections import Counter

import torch
from torch import Tensor

from verify.inputs import normal
from verify.operators.reference import chi_square_share, softmax, steps
from verify.operators.vllm import Call, OperatorProblem, OperatorSubject, operator_run

TOKENS, DRAWS = 307, 8192
ROWS, WIDE = 24, 32003
"""Width of a whole vocabulary."""


def _drawn(_: str) -> OperatorProblem:
    """Tokens drawn from one distribution, in which every fifth token is impossible."""
    logits = normal(1, TOKENS, seed=90, dtype="float32") * 2
    logits[0, ::5] = -math.inf
    probabilities = softmax(logits)[0].tolist()

    def compute(call: Call, _: str) -> Tensor:
        seeds = torch.randint(0, 2**31, (DRAWS,), generator=torch.Generator().manual_seed(91))
        tokens: Tensor = call(logits.repeat(DRAWS, 1), seeds)
        return torch.tensor(chi_square_share(Counter(tokens.tolist()), probabilities))

    return OperatorProblem(f"how often {TOKENS} tokens come", compute, torch.zeros(()), "float32", lost=1.0)


def _largest(_: str) -> OperatorProblem:
    """Return the problem of finding the largest number of rows where it is next to the second largest, at both ends and in between."""
    rows = normal(ROWS, WIDE, seed=92, dtype="float32")
    places = torch.arange(ROWS) * (WIDE - 1) // (ROWS - 1)
    rows[torch.arange(ROWS), places] = torch.nextafter(rows.amax(dim=1), torch.tensor(math.inf))
    return OperatorProblem(
        f"{ROWS} rows of {WIDE}", lambda call, device: call(rows.to(device)).double(), places.double(), "float64"
    )


def _penalised(_: str) -> OperatorProblem:
    """Return the problem of the penalty for tokens of prompt and answer, for logits of both signs."""
    rows = normal(ROWS, WIDE, seed=93, dtype="float32")
    generator = torch.Generator().manual_seed(94)
    masks = [torch.rand(ROWS, WIDE, generator=generator) < part for part in (0.2, 0.1)]
    penalty = 1 + torch.rand(ROWS, generator=generator)
    wide = penalty.double()[:, None]
    exact = torch.where(
        masks[0] | masks[1], torch.where(rows > 0, rows.double() / wide, rows.double() * wide), rows.double()
    )

    def compute(call: Call, device: str) -> Tensor:
        result = rows.to(device)
        call(result, *(mask.to(device) for mask in masks), penalty.to(device))
        return result

    return OperatorProblem(f"{ROWS} rows of {WIDE}", compute, exact, "float32", steps(exact))


run = operator_run(
    OperatorSubject("fused_gumbel_argmax", _drawn, ("float32",)),
    OperatorSubject("greedy_argmax", _largest, ("float32",)),
    OperatorSubject("apply_repetition_penalties_", _penalised, ("float32",)),
)
