"""The time to build the environment of the newest CUDA set from present wheels, compared with `uv pip sync` of the same lock.

    .venv/bin/python -m benchmarks.install [--pairs 3] [--folder DIR]

Both begin with the wheels in a folder on the disk of the environment (4 GB, kept in the user's own wheelhouse), an empty cache of uv, and this
Python. The product: the whole module of the role `environment`: it installs uv, makes the environment, syncs it, compares it with its lock and
the content of the wheels, writes the manifest, and removes the wheels. By hand: `uv venv` and `uv pip sync --offline --require-hashes`. The
order alternates; each pair gives a ratio, and the median of the ratios counts, so that other work on the machine, which slows both, has less
effect. Byte code that the product compiles in the background after the environment is complete is not measured: the host does that during
verification. About 12 GB are written for each turn, and removed again. Aim: at most 1.1 times by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, header, publish, say
from benchmarks.timing import figures, timed
from provision.catalog.index.settings import read_settings
from provision.catalog.index.uv import uv_program
from provision.core.models.settings import Settings
from provision.phases.plan import plan
from provision.phases.plan.what_if import parse_what_if
from provision.phases.stage.candidate_lock import LockedCandidate, StageJob, lock_best_candidate
from provision.phases.stage.extension_package import NoPackager
from provision.phases.stage.host_uv import LOCK
from provision.phases.stage.lock_file import lock_text
from provision.phases.stage.locked_wheel import locked_hashes
from provision.phases.stage.staging import accepted
from provision.phases.stage.wheelhouse import Store
from provision.pipeline.runner import cache_folder
from tests.install.modules import module_command

HOST = "gpu=H100x8 driver=580.95.05 os=debian-12 glibc={glibc} arch=x86_64 python={python}"
PYTHON = "{}.{}".format(*sys.version_info[:2])
INTERPRETER = Path(getattr(sys, "_base_executable", sys.executable))
ROLE = ROOT / "playbooks/roles/environment/files"
DIGEST = "benchmark"
AIM = 1.1


def newest_set() -> LockedCandidate:
    """Return the lock of the newest CUDA set for this Python, with every wheel in the user's wheelhouse."""
    facts = parse_what_if(HOST.format(glibc=platform.libc_ver()[1], python=PYTHON))
    [resolution] = plan({facts.host: facts}, {facts.host: Settings()}).classes
    job = StageJob(
        read_settings(), Store(cache_folder()), None, refresh=False, packager=NoPackager(), package_required=False
    )
    return lock_best_candidate(accepted(resolution), job)


def lay_out(folder: Path, wheels: Sequence[Path]) -> Path:
    """Copy the wheels and uv to a folder on the environment's disk, as on a host before `install`."""
    incoming = folder / "incoming"
    incoming.mkdir(parents=True)
    for wheel in wheels:
        try:
            os.link(wheel, incoming / wheel.name)
        except OSError:
            shutil.copy(wheel, incoming)
    shutil.copy(uv_program(), incoming / "uv")
    return incoming


def product(folder: Path, wheels: Sequence[Path], lock: str) -> tuple[float, float]:
    """Return wall and CPU seconds of the role's module."""
    prefix, incoming = folder / "prefix", lay_out(folder, wheels)
    for name in ("envs", "bin"):
        (prefix / name).mkdir(parents=True)
    programs = {name: (ROLE / f"{name}.py").read_text(encoding="utf-8") for name in ("check_lock", "manifest")}
    parameters = {
        "prefix": str(prefix),
        "incoming": str(incoming),
        "environment": {
            "digest": DIGEST,
            "lock": lock,
            "stack": {},
            "uv": "uv",
            "interpreter": {"path": str(INTERPRETER), "version": PYTHON},
            "last": [],
        },
        "programs": {**programs, "warm": ""},
    }
    stdin = json.dumps({"ANSIBLE_MODULE_ARGS": parameters})
    spent = measured(module_command("firstlight_environment"), folder, {}, stdin)
    assert (prefix / "envs" / DIGEST / ".complete").exists()
    while list((prefix / "envs").glob(".cache.*")):
        time.sleep(0.2)
    return spent


def by_hand(folder: Path, wheels: Sequence[Path], lock: str) -> tuple[float, float]:
    """Return wall and CPU seconds of `uv venv` and `uv pip sync`."""
    incoming = lay_out(folder, wheels)
    (folder / "lock.txt").write_text(lock, encoding="utf-8")
    sync = (
        "pip sync --quiet --offline --no-index --require-hashes --find-links incoming --python env/bin/python lock.txt"
    )
    command = f'"$0" venv --quiet --offline --no-project --python "$1" env && "$0" {sync}'
    environment = {"UV_CACHE_DIR": str(folder / "cache"), "UV_NO_CONFIG": "1", "UV_LINK_MODE": "hardlink"}
    return measured(["sh", "-c", command, str(incoming / "uv"), str(INTERPRETER)], folder, environment)


def measured(command: list[str], folder: Path, environment: dict[str, str], stdin: str = "") -> tuple[float, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = timed(command, cwd=folder, environment=environment, stdin=stdin)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.code:
        sys.exit(f"error: ended with {done.code}\n{done.tail()}")
    return done.seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


SIDES = {"product": product, "by_hand": by_hand}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="where to build; default: beside the wheelhouse, so that wheels are linked"
    )
    options = parser.parse_args()
    chosen = newest_set()
    wheels, lock = chosen.paths, lock_text(chosen.locked.files())
    result: dict[str, Any] = header("install", ())
    result["versions"] |= {"uv": locked_hashes(LOCK, "uv")[0], "vllm": chosen.stack.vllm and chosen.stack.vllm.version}
    result["set"] = {
        "torch": f"{chosen.stack.torch.version} ({chosen.stack.torch.variant})",
        "distributions": len(wheels),
        "wheel_bytes": sum(wheel.stat().st_size for wheel in wheels),
        "unpacked_bytes": chosen.locked.unpacked_bytes,
    }
    spent: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    loads = []
    for pair in range(options.pairs):
        loads.append(round(os.getloadavg()[0], 2))
        for side in sorted(SIDES, reverse=pair % 2 == 1):
            with tempfile.TemporaryDirectory(prefix="install-", dir=options.folder or cache_folder()) as name:
                spent[side].append(SIDES[side](Path(name), wheels, lock))
            os.sync()
            wall, cpu = spent[side][-1]
            say(f"pair {pair + 1}, {side}: {wall:.1f} s, {cpu:.1f} s of CPU")
    for side, samples in spent.items():
        used = [round(cpu_s, 2) for _, cpu_s in samples]
        result[side] = {**figures([wall for wall, _ in samples]), "cpu_s": used}
    pairs = list(zip(spent["product"], spent["by_hand"], strict=True))
    ratios = [mine[0] / other[0] for mine, other in pairs]
    ratio = round(statistics.median(ratios), 3)
    result["load_before_each_pair"] = loads
    result["ratio"] = {
        "median": ratio,
        "samples": [round(one, 3) for one in ratios],
        "cpu_median": round(statistics.median(mine[1] / other[1] for mine, other in pairs), 3),
    }
    result["aim"] = {"ratio": AIM, "met": ratio <= AIM}
    publish(result, "install", always=True)
    return 0 if ratio <= AIM else 1


if __name__ == "__main__":
    sys.exit(main())
