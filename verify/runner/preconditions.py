"""Conditions under which a check applies: each returns the result of a check that does not apply, otherwise None."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verify.records import CheckContext, CheckResult
from verify.serving import service_plan
from verify.serving.service import Service


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
    if context.expect.get("serve_follows"):
        return CheckResult("skip", "the service is started after these checks; ./firstlight verify then asks it")
    if context.service is None:
        return CheckResult("skip", "no service runs from this environment", remedy="start it: ./firstlight serve")
    return _readable_plan(context.service)


def _readable_plan(service: Service) -> CheckResult | None:
    """Require that a service runs from this environment, and that this user may read its plan."""
    if (service.prefix / "current").resolve() != Path(sys.prefix).resolve():
        return CheckResult("skip", "the service runs from another environment")
    try:
        service_plan.read(service)
    except PermissionError as error:
        return CheckResult("skip", f"only the owner may read {error.filename}", remedy="run the checks as root")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return CheckResult("error", f"cannot read the plan of the service: {error}", remedy="./firstlight provision")
    return None


def planned_attention(row: Mapping[str, Any], context: CheckContext) -> CheckResult | None:
    """Require that the Stack uses this attention, a row of data/attention.toml; on `full` and without a plan, all are checked."""
    plan: Mapping[str, Any] | None = context.stack.get("attention")
    if not plan or context.faults or context.includes("full") or is_planned(row, context):
        return None
    generation = f" of generation {plan['generation']}" if plan.get("generation") else ""
    return CheckResult("skip", f"the plan serves with {plan['backend']}{generation}; other attention: --level full")


def is_planned(row: Mapping[str, Any], context: CheckContext) -> bool:
    """Return whether the Stack serves with this attention, or has its package."""
    plan: Mapping[str, Any] = context.stack.get("attention") or {}
    package = (context.stack.get("flash_attn") or {}).get("package") or {}
    serves = plan.get("backend") in row.get("serves", ()) and plan.get("generation") in (None, row.get("generation"))
    return serves or str(package.get("version")).startswith(row.get("package", "none"))
