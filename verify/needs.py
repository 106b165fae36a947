"""What a check may need. An unmet need makes it skip and say what is missing, or an error where nothing may be missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping

from verify.records import Context, Outcome

Need = Callable[[Context], "Outcome | None"]


def unmet(names: tuple[str, ...], context: Context) -> Outcome | None:
    """The outcome for the first need that is not met, null when all are."""
    return next((outcome for name in names if (outcome := NEEDS[name](context))), None)


def _torch(context: Context) -> Outcome | None:
    if context.torch_problem is None:
        return None
    return Outcome("error", f"cannot tell: torch does not import ({context.torch_problem})")


def _vllm(context: Context) -> Outcome | None:
    if "vllm" in context.stack and context.stack["vllm"] is None:
        return Outcome("skip", "the Stack has no vLLM")
    if context.stack or importlib.util.find_spec("vllm"):
        return None  # where the Stack says vLLM, its absence is the check's to report
    return Outcome("skip", "no vllm in this environment, and no Stack that asks for it")


def _lock(context: Context) -> Outcome | None:
    if context.lock is not None:
        return None
    return Outcome("skip", "no lock to compare with", remedy="name it: --lock FILE")


NEEDS: Mapping[str, Need] = {"torch": _torch, "vllm": _vllm, "lock": _lock}
