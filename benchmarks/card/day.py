"""A card's day: everything that can be proven and measured on one GPU in under 8 minutes, without a network or an installation.

    benchmarks/card/run [--beside FOLDER] [--out FILE] [--level full] [--only STEP]

Needs a python3 that has torch. FOLDER may contain a flash-attn wheel of the wheel builder, for this Python, torch and
CUDA. Each step is a process of its own with a limit of its own; its result is written before the next one begins, so
that a failed step loses no other result. Without a GPU the steps run on the CPU, and the result names that device.
Exits with 1 if a step failed or exceeded its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, ROOT, header, say

WHOLE_S = 470.0
"""Limit of all steps together: eight minutes less the time that a machine needs to end."""
CPU_PATIENCE = 6.0
"""Factor of the limits without a card: such a machine has no time limit, and it may do other work."""
TAIL = 2000
FRAME = "frame.run"
"""The record that reports an injected fault without a check."""
NOT_HERE = ("failed-requests", "crash", "hang")
"""Faults that need a running service, or that end a check's process; the latter have a step of their own."""
ABOUT = """
import json, torch
card = torch.cuda.is_available()
one = torch.cuda.get_device_properties(0) if card else None
try:
    import triton
    compiler = triton.__version__
except ImportError:
    compiler = None
print(json.dumps({
    "device": "cuda:0" if card else "cpu", "card": one.name if one else None, "memory_gib": round(one.total_memory / 2**30, 1) if one else None,
    "multiprocessors": one.multi_processor_count if one else None, "torch": torch.__version__, "cuda": torch.version.cuda,
    "hip": torch.version.hip, "triton": compiler, "capability": list(torch.cuda.get_device_capability(0)) if card else None,
}))
"""


class StepError(Exception):
    """A step that did not finish; the text is the reason."""


@dataclass
class Day:
    """Data of all steps."""

    folder: Path
    beside: Path
    level: str
    ends_at: float
    about: dict[str, Any]

    @property
    def tool(self) -> Path:
        """Return the file with the checks."""
        return self.folder / "verify.pyz"

    def call(self, limit_s: float, *words: str | Path, good: Sequence[int] = (0,), site: Path | None = None) -> Any:
        """Return the JSON that a Python program prints; the process and its children are ended at its limit. Raises StepError."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, filter(None, (site, ROOT))))}
        limit_s = min(limit_s, self.ends_at - time.monotonic())
        if limit_s <= 1:
            raise StepError("no time was left for it")
        with subprocess.Popen(
            [sys.executable, *map(str, words)], cwd=self.folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                out, errors = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, errors = process.communicate()
                raise StepError(f"cut after {limit_s:.0f} s: {(errors or out)[-TAIL:]}") from None
        if process.returncode not in good:
            raise StepError(f"ended with {process.returncode}: {(errors or out)[-TAIL:]}")
        try:
            return json.loads(out)
        except ValueError:
            raise StepError(f"printed no JSON: {(out or errors)[-TAIL:]}") from None


def checks(day: Day, limit_s: float) -> dict[str, Any]:
    """Run the checks as a host does."""
    return _outcomes(day.call(limit_s, day.tool, "--level", day.level, "--json", good=(0, 1, 2, 3)))


def injections(day: Day, limit_s: float) -> dict[str, Any]:
    """Inject every fault into every check of the level that must notice it: each must warn or fail. Raises StepError if one does not."""
    listed = day.call(limit_s, day.tool, "--list", "--level", day.level, "--json")
    knowing = [check for check in listed if set(check["faults"]) - set(NOT_HERE)]
    faults = sorted({fault for check in knowing for fault in check["faults"]} - set(NOT_HERE))
    only = [word for check in knowing for word in ("--only", check["id"])]
    inject = [word for fault in faults for word in ("--inject", fault)]
    lock = day.folder / "lock.txt"
    names = {dist.name: dist.version for dist in distributions()}
    lock.write_text("".join(f"{name}=={version}\n" for name, version in sorted(names.items())))
    words = ("--level", "quick", "--lock", lock, "--json")
    found = day.call(limit_s, day.tool, *only, *inject, *words, good=(0, 1, 2, 3))
    ended = day.call(
        limit_s, day.tool, "--only", "kernels.vector_add", "--only", "kernels.gemm", "--inject", "crash@kernels.vector_add",
        "--inject", "hang@kernels.gemm", "--deadline", "15", "--json", good=(3,),
    )  # fmt: skip
    statuses, reasons = ({one["id"]: one[key] for one in found["checks"]} for key in ("status", "reason"))
    at_ends = {one["id"]: one for one in ended["checks"] if one["id"].startswith("kernels.")}
    asked = {check["id"] for check in knowing} | {FRAME}
    silent = {name: reasons[name] for name in asked & set(statuses) if statuses[name] in ("ok", "error")}
    silent |= {name: one["reason"] for name, one in at_ends.items() if one["status"] != "error"}
    outcome = {"faults": faults, "statuses": statuses, "ended": {name: one["reason"] for name, one in at_ends.items()}}
    if silent:
        raise StepError(f"not noticed: {json.dumps(silent)}")
    return outcome


def attention(day: Day, limit_s: float) -> Any:
    """Measure torch's paths of attention, case by case."""
    return day.call(limit_s, "-m", "benchmarks.card.attention", day.about["device"])


def wheel(day: Day, limit_s: float) -> dict[str, Any]:
    """Check the flash-attn wheel of the folder: unpack it, import it, compare its GPU code, and compare its attention with float64."""
    chosen = next(iter(sorted(day.beside.glob("flash_attn-*.whl"))), None)
    if chosen is None:
        return {"skipped": "no flash-attn wheel is beside the checkout"}
    site = day.folder / "site"
    with zipfile.ZipFile(chosen) as archive:
        archive.extractall(site)
    names = ("libraries.gpu_code", "engine.flash_attn", "attention.flash_attn_2")
    only = [word for name in names for word in ("--only", name)]
    found = day.call(limit_s, day.tool, "--level", day.level, *only, "--json", good=(0, 1, 2, 3), site=site)
    return {"wheel": chosen.name, "bytes": chosen.stat().st_size, **_outcomes(found)}


def upgrade(day: Day, limit_s: float) -> Any:
    """Compare a model before and after the upgrade of its attention."""
    dtype = () if day.about["device"] == "cpu" else ("--dtype", "bfloat16")
    words = ("upgrade", "benchmarks.card.model:encoder", *dtype, "--json")
    found = day.call(limit_s, day.tool, *words, good=(0, 1, 2), site=ROOT)
    targets = tomllib.loads(Path(__file__).with_name("targets.toml").read_text())["attention"]
    return {**found, "targets": [_judged(target, found["layers"]) for target in targets]}


def _judged(target: dict[str, Any], layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a target with the largest share that an upgraded layer has of its original."""
    figure = target["figure"]
    share = max((layer[f"upgraded_{figure}"] / layer[f"original_{figure}"] for layer in layers), default=None)
    return {**target, "share": share, "met": share is not None and share <= target["at_most"]}


STEPS: dict[str, tuple[Callable[[Day, float], Any], float]] = {
    "checks": (checks, 230.0),
    "injections": (injections, 110.0),
    "attention": (attention, 40.0),
    "wheel": (wheel, 40.0),
    "upgrade": (upgrade, 40.0),
}
"""Each step with its limit in seconds; the sum is below WHOLE_S."""


def _outcomes(document: dict[str, Any]) -> dict[str, Any]:
    """Return the stored part of a document of checks: evidence only of checks that did not pass."""
    records = document["checks"]
    for record in records:
        if record["status"] in ("ok", "skip"):
            record["evidence"] = None
    return {"status": document["status"], "seconds": document["seconds"], "level": document["level"], "checks": records}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, default=ROOT / "benchmarks" / "card" / "beside")
    parser.add_argument("--out", type=Path, default=RESULTS / "card.json")
    parser.add_argument("--level", choices=("quick", "standard", "full"), default="full")
    parser.add_argument("--only", action="append", choices=tuple(STEPS), default=[])
    options = parser.parse_args()
    result, started = header("card"), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="firstlight-card-") as name:
        day = Day(Path(name), options.beside.resolve(), options.level, started + WHOLE_S, {})
        try:
            day.about |= day.call(60.0, "-c", ABOUT)
            day.about["driver"] = _driver()
            patience = 1.0 if day.about["card"] else CPU_PATIENCE
            day.ends_at = started + patience * WHOLE_S
            _pack(day.tool)
        except (StepError, OSError, ImportError) as error:
            say(
                f"error: {error}\n\nhint: run it by a Python that has torch: PYTHON=/opt/torch/bin/python3 benchmarks/card/run"
            )
            return 2
        result |= {"on": day.about["card"] or "the CPU: no GPU is here", **day.about, "steps": {}}
        out: Path = options.out.resolve()
        for step, (work, limit_s) in STEPS.items():
            if step in (options.only or STEPS):
                result["steps"][step] = _step(work, day, patience * limit_s)
                say(f"{step}: {result['steps'][step]['status']}, {result['steps'][step]['seconds']} s")
                out.parent.mkdir(parents=True, exist_ok=True)
                out.with_suffix(".part").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                out.with_suffix(".part").replace(out)
    print(json.dumps({name: {**step, "found": "..."} for name, step in result["steps"].items()}, indent=1))
    say(f"kept: {out}")
    return int(any(step["status"] == "failed" for step in result["steps"].values()))


def _step(work: Callable[[Day, float], Any], day: Day, limit_s: float) -> dict[str, Any]:
    """Return the result of one step, however it ended."""
    started = time.monotonic()
    try:
        outcome: dict[str, Any] = {"status": "done", "found": work(day, limit_s)}
    except Exception as error:  # noqa: BLE001 - after any error the other steps still run
        outcome = {"status": "failed", "problem": f"{type(error).__name__}: {error}"}
    if isinstance(outcome.get("found"), dict) and "skipped" in outcome["found"]:
        outcome["status"] = "skipped"
    return {**outcome, "seconds": round(time.monotonic() - started, 1), "limit_s": limit_s}


def _pack(target: Path) -> None:
    from provision.phases.verify.tool import zipapp  # noqa: PLC0415 - missing modules are reported before

    target.write_bytes(zipapp())


def _driver() -> str | None:
    from verify.host.views import nvml  # noqa: PLC0415 - as above

    return nvml.release()


if __name__ == "__main__":
    sys.exit(main())
