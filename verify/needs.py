"""What a check needs to be about anything: each gives the outcome of a check that has nothing to look at, else null."""

from __future__ import annotations

import importlib.util

from verify.records import Context, Outcome


def vllm(context: Context) -> Outcome | None:
    """A vLLM that the Stack says, or one that is installed where there is no Stack."""
    if "vllm" in context.stack and context.stack["vllm"] is None:
        return Outcome("skip", "the Stack has no vLLM")
    if context.stack or importlib.util.find_spec("vllm"):
        return None  # where the Stack says vLLM, its absence is the check's to report
    return Outcome("skip", "no vllm in this environment, and no Stack that asks for it")


def lock(context: Context) -> Outcome | None:
    """A lock to compare with."""
    if context.lock is not None:
        return None
    return Outcome("skip", "no lock to compare with", remedy="name it: --lock FILE")
