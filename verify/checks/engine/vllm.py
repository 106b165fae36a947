"""engine.vllm: vLLM's import, release and platform."""

import importlib

from verify.records import CheckContext, CheckResult

PLATFORMS = ("cpu", "cuda", "rocm")


def run(context: CheckContext) -> CheckResult:
    planned = context.stack.get("vllm") or {}
    if "stale-library" in context.faults:
        planned = {"version": "0.0.0"}
    try:
        vllm = importlib.import_module("vllm")
        current_platform = importlib.import_module("vllm.platforms").current_platform
    except ImportError as error:
        text = f"vLLM does not import: {error}"
        return CheckResult("fail", text, remedy="reinstall the environment from its lock: ./firstlight provision")
    found = next((name for name in PLATFORMS if getattr(current_platform, f"is_{name}")()), None)
    return evaluate(str(vllm.__version__), found, planned.get("version"), planned.get("variant"), str(vllm.__file__))


def evaluate(version: str, platform: str | None, planned: str | None, variant: str | None, file: str) -> CheckResult:
    """Compare vLLM's version and platform (None: unsupported) with the Stack's release and variant, if any."""
    evidence = {"call": "vllm.platforms.current_platform", "version": version, "platform": platform, "file": file}
    if planned and version.partition("+")[0] != planned:
        return CheckResult("fail", f"vLLM is {version}, and the plan has {planned}", evidence=evidence)
    if platform is None:
        return CheckResult("fail", f"vLLM {version} finds no supported platform", evidence=evidence)
    wanted = {"cu": "cuda", "ro": "rocm", "cp": "cpu"}[variant[:2]] if variant else platform
    if platform != wanted:
        text = f"vLLM {version} computes on {platform}, and the plan has {wanted}"
        return CheckResult("fail", text, evidence=evidence)
    return CheckResult("ok", f"vLLM {version} imports and computes on {platform}", evidence=evidence)
