"""Operators that compute wrong results within a block, for every caller."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Change = Callable[[torch.Tensor, tuple[Any, ...]], torch.Tensor]
"""Takes an operator's result and arguments; returns the changed result."""


class Bent(torch.autograd.Function):  # type: ignore[misc]
    """Returns a result unchanged and changes its gradient by one part in a hundred."""

    @staticmethod
    def forward(_: Any, value: Any) -> Any:
        return value.clone()

    @staticmethod
    def backward(_: Any, gradient: Any) -> Any:
        return gradient * 1.01


def off(result: torch.Tensor, _: tuple[Any, ...] = ()) -> torch.Tensor:
    """Return a tensor with each element changed by one part in a hundred, and each integer by one."""
    wrong = result.double() * 1.01
    return (wrong.ceil() if not result.dtype.is_floating_point else wrong).to(result.dtype)


class Broken(TorchDispatchMode):  # type: ignore[misc]
    """Within the block, an operator's results are changed; with `every` only each n-th, where equal calls are compared.

    Results in the spared types stay correct, for references that the operator itself computes.
    """

    def __init__(
        self,
        operator: str,
        change: Change = off,
        *,
        every: int = 1,
        spared: tuple[torch.dtype, ...] = (torch.float64, torch.int64),
    ) -> None:
        super().__init__()
        self.operator, self.change, self.every, self.spared = operator, change, every, spared
        self.hits, self.calls = 0, count(1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, tuple) else result
        if (
            func.name().partition(".")[0] != self.operator
            or first.dtype in self.spared
            or next(self.calls) % self.every
        ):
            return result
        wrong = self.change(first, args)
        self.hits += 1
        if func.name().endswith("_"):
            return first.copy_(wrong)
        return (wrong, *result[1:]) if isinstance(result, tuple) else wrong
