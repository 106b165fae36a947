"""A result that is right with a gradient that is not."""

from __future__ import annotations

from typing import Any

import torch


class Bent(torch.autograd.Function):  # type: ignore[misc]
    """Passes a result on, and spoils its gradient by one part in a hundred."""

    @staticmethod
    def forward(_: Any, value: Any) -> Any:
        return value.clone()

    @staticmethod
    def backward(_: Any, gradient: Any) -> Any:
        return gradient * 1.01
