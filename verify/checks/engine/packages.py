"""engine.vllm and flash_attn: presence, import, release and platform of vLLM and of the planned flash attention."""

import importlib
from collections.abc import Mapping
from typing import Any

from verify.binaries.distributions import installed, same_version
from verify.records import CheckContext, CheckResult
from verify.tables import table

PLATFORMS = ("cpu", "cuda", "rocm")
AGAIN = "reinstall the environment from its lock: ./firstlight provision"


def vllm(context: CheckContext) -> CheckResult:
    planned = context.stack.get("vllm") or {}
    if "stale-library" in context.faults:
        planned = {"version": "0.0.0"}
    try:
        module = importlib.import_module("vllm")
        current_platform = importlib.import_module("vllm.platforms").current_platform
    except ImportError as error:
        text = f"vLLM does not import: {error}"
        return CheckResult("fail", text, remedy=AGAIN)
    platform = next((name for name in PLATFORMS if getattr(current_platform, f"is_{name}")()), None)
    release, variant, version = planned.get("version"), planned.get("variant"), str(module.__version__)
    evidence: dict[str, Any] = {"call": "vllm.platforms.current_platform", "version": version}
    evidence |= {"platform": platform, "file": str(module.__file__)}
    if release and version.partition("+")[0] != release:
        return CheckResult("fail", f"vLLM is {version}, and the plan has {release}", evidence=evidence)
    if platform is None:
        return CheckResult("fail", f"vLLM {version} finds no supported platform", evidence=evidence)
    wanted = {"cu": "cuda", "ro": "rocm", "cp": "cpu"}[variant[:2]] if variant else platform
    if platform != wanted:
        text = f"vLLM {version} computes on {platform}, and the plan has {wanted}"
        return CheckResult("fail", text, evidence=evidence)
    return CheckResult("ok", f"vLLM {version} imports and computes on {platform}", evidence=evidence)


def flash_attn(context: CheckContext) -> CheckResult:
    plan: Mapping[str, Any] = context.stack.get("flash_attn") or {}
    if "stale-library" in context.faults:
        plan = {"provider": "wheel", "package": {"version": "0.0.0"}}
    package = plan.get("package")
    modules = table("flash_attn")["package"]
    name = (package or {}).get("distribution") or next((name for name in modules if name in installed()), "flash-attn")
    found = installed().get(name)
    version = found[0].version if found else None
    if version or package:
        problem = _problem(modules[name]) if version else None
        return judge_package(name, version, package and package["version"], problem)
    if plan.get("provider") == "bundled":
        return _bundled((context.stack.get("attention") or {}).get("generation"))
    return CheckResult("skip", "no flash-attn package is installed, and none is planned")


def judge_package(name: str, version: str | None, planned: str | None, problem: str | None) -> CheckResult:
    """Compare the installed version of a distribution with the planned one (None if there is none); `problem` is the import error."""
    if version is None:
        return CheckResult("fail", f"{name} {planned} is planned and not installed", remedy=AGAIN)
    if planned and not same_version(version, planned):
        return CheckResult("fail", f"{name} is {version}, and the plan has {planned}", remedy=AGAIN)
    if problem:
        remedy = "a flash-attn wheel fits one torch release, CUDA major and C++ ABI; remove it or take the exact one"
        return CheckResult("fail", f"{name} {version} does not import: {problem}", remedy=remedy)
    return CheckResult("ok", f"{name} {version} imports")


def _bundled(generation: int | None) -> CheckResult:
    names = table("flash_attn")["bundled"]
    wanted = [row["module"] for row in names if generation in (None, row["generation"])]
    problems = {name: _problem(name) for name in wanted}
    working = [name for name, problem in problems.items() if problem is None]
    evidence = {"import": problems}
    if working:
        return CheckResult("ok", f"vLLM's own flash attention loads: {', '.join(working)}", evidence=evidence)
    text = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
    return CheckResult("fail", f"vLLM's own flash attention does not load: {text}", evidence=evidence)


def _problem(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return None
