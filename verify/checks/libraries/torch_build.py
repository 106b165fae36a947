"""libraries.torch_build: release, build and origin of torch."""

import sys
from pathlib import Path

from verify.host.views import torch_view
from verify.records import CheckContext, CheckResult

AGAIN = "reinstall the environment from its lock: ./firstlight provision"


def run(context: CheckContext) -> CheckResult:
    if context.torch_problem:
        remedy = f"the message names the missing library or symbol; {AGAIN}"
        return CheckResult("fail", f"torch does not import: {context.torch_problem}", remedy=remedy)
    torch = torch_view.load()
    version = "0.0.0+stale" if "stale-library" in context.faults else str(torch.__version__)
    planned = context.stack.get("torch") or ({"version": "1.0.0"} if "stale-library" in context.faults else {})
    built_for = {"cuda": torch.version.cuda, "hip": torch.version.hip}
    file, taken_over = Path(torch.__file__), (context.stack.get("interpreter") or {}).get("torch")
    return evaluate(version, planned.get("version"), planned.get("variant"), file, built_for, taken_over=taken_over)


def evaluate(
    version: str,
    planned: str | None,
    variant: str | None,
    file: Path,
    built_for: dict[str, str | None],
    *,
    taken_over: str | None = None,
) -> CheckResult:
    """Compare torch with the plan.

    Args:
        planned: Release without local part; None without a plan.
        variant: `cpu`, `cu130`, `rocm7.0`; None without a plan.
        taken_over: Version of the host's own torch, if the Stack uses it.
    """
    evidence = {"version": version, "file": str(file), **built_for}
    if taken_over is not None and version != taken_over:
        text = f"torch of the host is {version}, and the plan was planned for {taken_over}"
        return CheckResult("fail", text, evidence=evidence, remedy="plan again: ./firstlight provision")
    if taken_over is None and Path(sys.prefix).resolve() not in file.resolve().parents:
        text = f"torch comes from {file.parent}, outside the environment {sys.prefix}"
        return CheckResult("fail", text, evidence=evidence, remedy="unset PYTHONPATH")
    if planned and version.partition("+")[0] != planned:
        return CheckResult("fail", f"torch is {version}, and the plan has {planned}", evidence=evidence)
    actual = _variant(built_for)
    if variant and variant != actual:
        text = f"torch is built for {actual}, and the plan has {variant}"
        return CheckResult("fail", text, evidence=evidence, remedy=AGAIN)
    return CheckResult("ok", f"torch {version}, built for {actual}", evidence=evidence)


def _variant(built_for: dict[str, str | None]) -> str:
    if built_for["cuda"]:
        return "cu" + "".join(built_for["cuda"].split(".")[:2])
    if built_for["hip"]:
        return "rocm" + ".".join(built_for["hip"].split(".")[:2])
    return "cpu"
