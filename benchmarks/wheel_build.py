"""The cost of building flash-attn for one architecture, compared with its authors' default list: CPU seconds of six translation units.

    ./firstlight wheels build flash-attn==2.8.3.post2 --torch 2.11.0 --arch 90        # stopped once its first units are compiled
    .venv/bin/python -m benchmarks.wheel_build ~/.cache/firstlight/builds/flash-attn-2.8.3.post2-...

    .venv/bin/python -m benchmarks.wheel_build --cache ~/.cache/firstlight                # the figures of a build that was finished there

Each unit is compiled twice by the command that the wheel builder's build runs, once as it stands and once with the default list. CPU seconds of all of
nvcc's processes are counted, so that other work on the machine has little effect; a run that was stopped is resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, header, say
from provision.phases.stage.builds.build_cache import BuildCache
from provision.phases.stage.builds.build_key import FLASH_ATTN
from provision.phases.stage.wheelhouse import Store

UNITS = (
    "flash_fwd_hdim32_fp16_causal_sm80",
    "flash_fwd_hdim32_bf16_causal_sm80",
    "flash_fwd_hdim64_fp16_causal_sm80",
    "flash_fwd_hdim64_bf16_causal_sm80",
    "flash_fwd_hdim32_fp16_sm80",
    "flash_fwd_hdim32_bf16_sm80",
)
DEFAULT = ("80", "90", "100", "120")
"""Default of FLASH_ATTN_CUDA_ARCHS in setup.py of 2.7.3 to 2.8.3.post2."""
_UNIT = re.compile(r"^\[\d+/(\d+)\] ", re.MULTILINE)
"""ninja's own count of compiled units."""
_GENCODE = re.compile(r" -gencode arch=compute_(\d+),code=sm_(\d+)")


def template(folder: Path) -> tuple[str, list[str]]:
    """Return the command that compiles a unit, with {unit} and {object}, and its architectures."""
    plan = next(folder.glob("source/*/build/**/build.ninja")).read_text(encoding="utf-8")
    values = dict(re.findall(r"^(\w+) = (.+)$", plan, re.MULTILINE))
    archs = [match[1] for match in _GENCODE.findall(values["cuda_post_cflags"])]
    unit = "{folder}/{unit}.cu"
    return f"{values['nvcc']} {values['cuda_cflags']} -c {unit} -o {{object}} {values['cuda_post_cflags']}", archs


def cpu_seconds(command: str, folder: Path, environ: dict[str, str]) -> float:
    """Return the CPU seconds of a command and all its processes. Raises subprocess.CalledProcessError with the compiler's output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(shlex.split(command), cwd=folder, env=environ, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)


def with_archs(command: str, archs: tuple[str, ...]) -> str:
    """Return the command for other architectures, with its other options unchanged."""
    first = next(_GENCODE.finditer(command)).start()
    asked = "".join(f" -gencode arch=compute_{arch},code=sm_{arch}" for arch in archs)
    bare = _GENCODE.sub("", command)
    return bare[:first] + asked + bare[first:]


def measure(folder: Path, result: dict[str, Any], path: Path) -> None:
    """Measure every unit without a figure; the result is stored after each."""
    source = next(folder.glob("source/*/csrc/flash_attn/src"))
    command, archs = template(folder)
    result["archs"], result["default_archs"] = archs, list(DEFAULT)
    environ = {**os.environ, "PATH": f"{folder / 'env' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    for unit in UNITS:
        if unit in result["units"]:
            continue
        with tempfile.TemporaryDirectory(prefix="firstlight-") as name:
            whole = command.format(folder=source, unit=unit, object=Path(name) / "unit.o")
            seconds = {
                "one_cpu_s": cpu_seconds(whole, source.parents[2], environ),
                "default_cpu_s": cpu_seconds(with_archs(whole, DEFAULT), source.parents[2], environ),
            }
        result["units"][unit] = seconds
        say(f"{unit}: {seconds}")
        totals = {key: round(sum(row[key] for row in result["units"].values()), 1) for key in seconds}
        result |= totals | {"measured": f"{len(result['units'])} of {len(UNITS)} units"}
        result["ratio"] = round(totals["default_cpu_s"] / totals["one_cpu_s"], 2)
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def built(cache: Path) -> dict[str, Any]:
    """Return the figures of the flash-attn wheel that was built last into a wheelhouse. Raises SystemExit if there is none."""
    store = Store(cache)
    found = [
        wheel for wheel in BuildCache(store) if wheel.key.name == FLASH_ATTN and store.find(wheel.sha256, wheel.name)
    ]
    if not found:
        sys.exit(f"no flash-attn was built into {cache}")
    wheel = max(found, key=lambda wheel: wheel.built_at)
    log = Path(wheel.log).read_text(encoding="utf-8", errors="replace") if Path(wheel.log).is_file() else ""
    units = [int(total) for total in _UNIT.findall(log)]
    kept = ("torch", "name", "size", "codes", "built_at", "jobs", "cpu_seconds", "largest_process_gib", "nvcc")
    return {
        "key": wheel.key.slug,
        **wheel.model_dump(mode="json", include=set(kept)),
        "units": max(units, default=None),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="the folder of a stopped build")
    parser.add_argument(
        "--cache", type=Path, help="a wheelhouse with a wheel that was built: its figures are kept beside"
    )
    options = parser.parse_args()
    if not options.folder and not options.cache:
        parser.error("name a stopped build, or --cache with a finished one")
    path = RESULTS / "wheel_build.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if options.folder and len(result.get("units", ())) in {0, len(UNITS)}:
        result = {**header("wheel_build"), "units": {}, **({"build": result["build"]} if "build" in result else {})}
    if options.cache:
        result["build"] = built(options.cache.resolve())
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.folder:
        measure(options.folder.resolve(), result, path)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
