"""What a check needs to be about anything: each gives the outcome of a check that has nothing to look at, else null."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from verify.records import CheckContext, CheckResult
from verify.serving import service_plan


def vllm(context: CheckContext) -> CheckResult | None:
    """A vLLM that the Stack says, or one that is installed where there is no Stack."""
    if "vllm" in context.stack and context.stack["vllm"] is None:
        return CheckResult("skip", "the Stack has no vLLM")
    if context.stack or importlib.util.find_spec("vllm"):
        return None  # where the Stack says vLLM, its absence is the check's to report
    return CheckResult("skip", "no vllm in this environment, and no Stack that asks for it")


def lock(context: CheckContext) -> CheckResult | None:
    """A lock to compare with."""
    if context.lock is not None:
        return None
    return CheckResult("skip", "no lock to compare with", remedy="name it: --lock FILE")


def service(context: CheckContext) -> CheckResult | None:
    """A service that is live, whose plan this user may read; an injected fault is proven without one."""
    if context.faults:
        return None
    if context.service is None:
        return CheckResult("skip", "nothing serves from this environment", remedy="start it: ./firstlight serve")
    other = (context.service.prefix / "current").resolve() != Path(sys.prefix).resolve()
    if other or context.expect.get("serve_follows"):
        text = "another environment serves" if other else "the service is started anew after these checks"
        return CheckResult("skip", text)
    try:
        service_plan.read(context.service)
    except PermissionError as error:
        return CheckResult("skip", f"only its owner may read {error.filename}", remedy="run the checks as root")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return CheckResult("error", f"the plan of the service cannot be read: {error}", remedy="./firstlight provision")
    return None
