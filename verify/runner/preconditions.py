"""Conditions under which a check applies: each returns the result of a check that does not apply, otherwise None."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from verify.records import CheckContext, CheckResult
from verify.serving import service_plan


def vllm(context: CheckContext) -> CheckResult | None:
    """Require vLLM: planned in the Stack, or installed where there is no Stack."""
    if "vllm" in context.stack and context.stack["vllm"] is None:
        return CheckResult("skip", "the plan has no vLLM")
    if context.stack or importlib.util.find_spec("vllm"):
        return None  # a planned vLLM that is missing is a failure of the check
    return CheckResult("skip", "vllm is not installed in this environment, and no plan needs it")


def lock(context: CheckContext) -> CheckResult | None:
    """Require a lock."""
    if context.lock is not None:
        return None
    return CheckResult("skip", "there is no lock to compare with", remedy="pass one: --lock FILE")


def service(context: CheckContext) -> CheckResult | None:
    """Require a live service whose plan this user may read. Injected faults need none."""
    if context.faults:
        return None
    if context.service is None:
        return CheckResult("skip", "no service runs from this environment", remedy="start it: ./firstlight serve")
    other = (context.service.prefix / "current").resolve() != Path(sys.prefix).resolve()
    if other or context.expect.get("serve_follows"):
        text = "the service runs from another environment" if other else "the service is restarted after these checks"
        return CheckResult("skip", text)
    try:
        service_plan.read(context.service)
    except PermissionError as error:
        return CheckResult("skip", f"only the owner may read {error.filename}", remedy="run the checks as root")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return CheckResult("error", f"cannot read the plan of the service: {error}", remedy="./firstlight provision")
    return None
