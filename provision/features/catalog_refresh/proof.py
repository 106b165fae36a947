"""The proof of a combination: locked, installed from the real wheels in a scratch environment, every extension module loaded."""

import ctypes
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from provision.catalog import catalog
from provision.catalog.index.project_page import find_sources
from provision.catalog.index.settings import read_settings
from provision.catalog.index.uv import uv_program
from provision.catalog.load import overlay_folder
from provision.catalog.rows.builds import Proven
from provision.catalog.versions import platform_of
from provision.core.errors import FirstlightError, StageError, UsageError
from provision.core.folders import cache_folder
from provision.core.formatting import format_bytes
from provision.core.models.settings import Settings
from provision.core.models.stack import Stack
from provision.core.process import run_program
from provision.core.scratch import scratch_folder
from provision.features.catalog_refresh.new_releases import NewReleases, write_overlay
from provision.phases.plan import choose_stacks
from provision.phases.plan.what_if import parse_what_if
from provision.phases.stage.solve import LockedWheel, lock_text
from provision.phases.stage.stack_lock import fetch_wheels, lock_stack
from provision.phases.stage.staging import accepted
from provision.phases.stage.wheelhouse import Store

HOST = "gpu=H100x1 driver={driver}"
"""The host whose combination is proven if none is described."""
LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")
"""Libraries of NVIDIA's driver that extensions of vLLM and torch link to. They load without a GPU."""
UNPACKED = 2.3
"""Ratio of the unpacked wheels of a combination to the wheels. Source: benchmarks/results/sets.json, 2.0 to 2.3."""
LIMIT_S = 900.0
LOADER = Path(__file__).with_name("onhost") / "load_set.py"


class ProofError(FirstlightError):
    """A combination cannot be installed or loaded: the step that failed, and its error."""


@dataclass(frozen=True)
class Ground:
    """Where a combination is tried: its Python, a folder with the driver's libraries if the system has none, and a folder for the rest."""

    python: str | Path
    libraries: Path | None
    folder: Path

    @property
    def environment(self) -> Path:
        return self.folder / "environment"

    def run(self, step: str, command: Sequence[str | Path]) -> str:
        """Run a program with nothing of the user's environment but PATH, and return its output.

        Raises ProofError where it fails, or does not end in time.
        """
        for name in ("home", "tmp"):
            (self.folder / name).mkdir(exist_ok=True)
        environ = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "LD_LIBRARY_PATH": str(self.libraries or os.environ.get("LD_LIBRARY_PATH", "")),
            "UV_CACHE_DIR": str(self.folder / "uv"),
            "UV_PYTHON_DOWNLOADS": "never",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        late = ProofError(f"{step}: not done within {LIMIT_S:.0f} s", hint="try again when this machine is less busy")
        done = run_program([*map(str, command)], late, timeout_s=LIMIT_S, cwd=self.folder, env=environ)
        if done.returncode:
            raise ProofError(f"{step}: {conclusion(done.stdout, done.stderr, done.returncode)}")
        return done.stdout


def prove(what_if: str | None, libraries: Path | None) -> Iterator[str]:
    """Prove the newest combination for a host and add it to the user's tested combinations; yield a line for each step.

    Args:
        what_if: The host, as for `plan --what-if`; None for one with an H100. It has this machine's Python, architecture and glibc.
        libraries: A folder with the libraries of NVIDIA's driver; None for those of the system.

    Raises:
        UsageError: The description is malformed, or the driver's libraries are missing.
        StageError: No combination fits the host, it cannot be locked or fetched, or the disk is too full.
        ProofError: It cannot be installed or loaded.
    """
    machine, python = platform.machine(), ".".join(map(str, sys.version_info[:3]))
    described = what_if or HOST.format(driver=catalog().driver_offer.version)
    facts = parse_what_if(f"{described} python={python} arch={machine} glibc={platform.libc_ver()[1]}")
    settings = Settings(vllm="newest", flash_attn="bundled")
    [resolution] = choose_stacks({facts.host: facts}, {facts.host: settings}).classes
    candidate, stack = accepted(resolution)[0]
    name = f"{candidate.id}, the newest combination for {described} with Python {python} on {machine},"
    if row := next((row for row in catalog().proven if (row.set, row.machine) == (candidate.id, machine)), None):
        yield f"{name} is tested already ({row.source})"
        return
    _require_libraries(stack, libraries)
    sources, store = find_sources(read_settings()), Store(cache_folder())
    wheels = lock_stack(stack, sources, store).wheels
    size = sum(wheel.size or 0 for wheel in wheels)
    with scratch_folder() as folder:
        wanted = int(size * (1 + UNPACKED))
        yield f"{name} is being tested: {len(wheels)} wheels, {format_bytes(size)}; it takes minutes, and about {format_bytes(wanted)} of disk"
        # By its path: uv finds only some Pythons by their release.
        ground = Ground(Path(sys.executable).resolve(), libraries and libraries.absolute(), folder)
        if wanted > (free := shutil.disk_usage(folder).free):
            need = f"wheels and environment need about {format_bytes(wanted)} in `{folder.parent}`"
            hint = "free some space, or set TMPDIR to a folder on a larger disk"
            raise StageError(f"{need}, and {format_bytes(free)} are free there", hint=hint)
        fetch_wheels(wheels, sources, store)
        yield f"fetched into {store.root}"
        try:
            install(wheels, [store.path(wheel.sha256, wheel.name) for wheel in wheels], ground)
            yield "installed from these wheels alone, all hashes required"
            loaded = load(stack, ground)
        except ProofError as error:
            hint = error.hint or "it stays untested: `--vllm latest` prefers tested combinations"
            raise ProofError(f"{candidate.id} failed: {error.text}", hint=hint) from None
    today = datetime.now(UTC).date().isoformat()
    source = f"./firstlight catalog refresh --prove, {today}"
    tested = Proven(set=candidate.id, machine=machine, how="loaded", on="this controller", source=source)
    path = write_overlay(NewReleases(rows=[("proven", tested)]), overlay_folder(), today=today)
    yield f"loaded {loaded} extension modules; written to {path}: `plan` counts {candidate.id} as tested"


def install(wheels: Iterable[LockedWheel], paths: Iterable[Path], ground: Ground) -> None:
    """Make the environment anew from these files alone. Raises ProofError where it cannot be made."""
    shutil.rmtree(ground.environment, ignore_errors=True)
    incoming, lock = ground.folder / "incoming", ground.folder / "lock.txt"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    for path in paths:
        (incoming / path.name).symlink_to(path)
    lock.write_text(lock_text([*wheels]), encoding="utf-8")
    uv = [uv_program(), "--quiet", "--offline", "--no-config"]
    ground.run("venv", [*uv, "venv", "--python", str(ground.python), ground.environment])
    sync = [*uv, "pip", "sync", "--no-index", "--find-links", str(incoming), "--require-hashes"]
    ground.run("install", [*sync, "--python", ground.environment / "bin/python", lock])


def load(stack: Stack, ground: Ground) -> int:
    """Load every extension module, and run vLLM as far as that goes without a GPU; return the number of modules.

    Raises ProofError where one cannot be loaded.
    """
    assert stack.vllm is not None
    build = (stack.vllm.distribution, platform_of(stack.vllm.variant))
    found = json.loads(ground.run("load", [ground.environment / "bin/python", "-IB", LOADER, *build]).splitlines()[-1])
    return sum(map(len, found["loaded"].values()))


def conclusion(out: str, err: str, code: int) -> str:
    """Return, for a failed program, the step that it named, if any, and the last line with a reason."""
    steps = [line for line in out.splitlines() if line.startswith(("import ", "load ", "run vllm"))]
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0].split(" ")[0]]
    last = (errors or lines or [f"ended with {code}"])[-1]
    return f"{steps[-1]}: {last}" if steps else last


def _require_libraries(stack: Stack, libraries: Path | None) -> None:
    family = platform_of(stack.vllm.variant) if stack.vllm else None
    if family == "rocm":
        raise UsageError(
            "combinations for ROCm cannot be tested yet", hint="describe a host with gpu=H100x1 or gpu=none"
        )
    for name in LIBRARIES if family == "cuda" else ():
        try:
            ctypes.CDLL(str(libraries / name if libraries else name))
        except OSError as error:
            raise UsageError(
                f"extensions of vLLM for CUDA need `{name}` of NVIDIA's driver: {error}",
                hint="run this on a machine with the driver, or give `--libraries DIR` with both files of Debian's libcuda1 and libnvidia-ml1",
            ) from None
