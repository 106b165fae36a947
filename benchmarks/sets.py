"""Which vLLM releases make a working set: each is locked, installed, loaded and run with `--help`, with the real wheels.

    .venv/bin/python -m benchmarks.sets --python /usr/bin/python3.12 --libraries DIR [--work DIR] [--only RELEASE ...] [--again]

For every catalogued release from 0.8.5 and each of its CUDA builds that the plan would choose for one H100: the product's own lock and wheels,
an environment that uv makes from them with all hashes required, every extension module loaded with the NVIDIA driver's user libraries
(`--libraries`: a folder with libcuda.so.1 and libnvidia-ml.so.1; no card is needed), `vllm serve --help`, and the engine's configuration.
A build whose index does not answer is listed as not reached. A finished set is not repeated, except with `--again` or after its bounds
changed. There is one environment at a time on the disk; wheels stay as long as the next release needs them. Each row is stored immediately.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from packaging.version import Version

from benchmarks.harness import RESULTS, ROOT, Timed, header, parser, say, timed
from provision.catalog import catalog
from provision.catalog.index.settings import read_settings
from provision.catalog.index.sources import IndexSources, find_sources
from provision.catalog.index.uv import uv_program
from provision.core.errors import FirstlightError, IndexUnreachableError
from provision.core.models.settings import Settings
from provision.core.models.stack import Candidate, Stack
from provision.phases.plan import plan
from provision.phases.plan.what_if import parse_what_if
from provision.phases.stage.local_wheels import local_sources
from provision.phases.stage.lock_file import LockedWheel, lock_text
from provision.phases.stage.locked_wheel import LOCK, locked_hashes
from provision.phases.stage.stack_lock import fetch_wheels, lock_stack, unpacked_size
from provision.phases.stage.staging import accepted
from provision.phases.stage.wheelhouse import Store

OLDEST = Version("0.8.5")
HOST = "gpu=H100x1 driver=580.65.06 os=ubuntu-24.04 glibc=2.39 arch=x86_64 cpu=avx512 ram=256 disk=500"
RESULT = RESULTS / "sets.json"
SHOWN = ("transformers", "tokenizers", "numpy")
LONGEST = 400
"""Maximum number of characters of an error in a row."""


class SetError(Exception):
    """A set that does not work: the step that failed, and its error."""


@dataclass
class Row:
    """One set. Times are seconds, sizes bytes; None for steps that were not reached."""

    set: str
    vllm: str
    variant: str
    torch: str
    python: str
    ok: bool | None = None
    """None if the build's index does not answer."""
    error: str | None = None
    until: str | None = None
    """The latest day of dependencies."""
    bounds: list[str] = field(default_factory=list)
    """Further bounds, for any source of files."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the dependencies that break releases most often."""
    distributions: int | None = None
    wheels: int | None = None
    unpacked: int | None = None
    lock_s: float | None = None
    fetch_s: float | None = None
    install_s: float | None = None
    load_s: float | None = None
    extensions: int | None = None
    """Number of loaded modules."""
    at: str = ""


def sets(python: str) -> Iterator[tuple[Candidate, Stack]]:
    """Return every build of every release that the plan accepts, the newest first, builds with the same torch wheels together."""
    facts = parse_what_if(f"{HOST} python={python}")
    found = []
    for release in catalog().releases:
        if Version(release.version) >= OLDEST:
            settings = Settings(vllm=f"=={release.version}", flash_attn="bundled")
            [resolution] = plan({facts.host: facts}, {facts.host: settings}).classes
            found += accepted(resolution) if resolution.stack else []
    yield from sorted(
        found, key=lambda pair: (Version(pair[1].torch.version), Version(pair[0].id.split("-")[1])), reverse=True
    )


@dataclass(frozen=True)
class BuildHost:
    """The place where sets are made: the interpreter, the driver's libraries, and a folder for wheels and the environment."""

    python: Path
    libraries: Path
    work: Path
    sources: IndexSources
    store: Store

    @property
    def environment(self) -> Path:
        return self.work / "environment"

    def variables(self) -> dict[str, str]:
        return {
            "HOME": str(self.work / "home"),
            "UV_CACHE_DIR": str(self.work / "uv"),
            "UV_PYTHON_DOWNLOADS": "never",
            "LD_LIBRARY_PATH": str(self.libraries),
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(self, what: str, command: Sequence[str | Path], *, limit_s: float = 900) -> Timed:
        """Run a program. Raises SetError with the end of its output."""
        try:
            done = timed(command, cwd=self.work, environment=self.variables(), limit_s=limit_s)
        except subprocess.TimeoutExpired:
            raise SetError(f"{what}: not done within {limit_s:.0f} s") from None
        if done.code:
            raise SetError(f"{what}: {conclusion(done)}")
        return done


def conclusion(done: Timed) -> str:
    """Return, for a failed program, the step that it named, if any, and the last line with a reason."""
    steps = [line for line in done.out.splitlines() if line.startswith(("import ", "load ", "run vllm"))]
    lines = [line.strip() for line in done.err.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0].split(" ")[0]]
    last = (errors or lines or [f"ended with {done.code}"])[-1]
    return f"{steps[-1]}: {last}" if steps else last


def try_set(row: Row, stack: Stack, bench: BuildHost) -> None:
    """Fill the row. Raises SetError, or StageError if there is no lock."""
    with timing(row, "lock_s"):
        wheels = lock_stack(stack, local_sources(stack), bench.sources, bench.store).wheels
    row.versions = {wheel.distribution: wheel.version for wheel in wheels if wheel.distribution in SHOWN}
    row.distributions = len(wheels)
    prune(bench.store, wheels)
    with timing(row, "fetch_s"):
        fetch_wheels(wheels, bench.sources.settings, bench.sources.indexes, bench.store)
    paths = [bench.store.path(wheel.sha256, wheel.name) for wheel in wheels]
    row.wheels = sum(path.stat().st_size for path in paths)
    row.unpacked = unpacked_size(paths)
    with timing(row, "install_s"):
        install(wheels, paths, bench)
    with timing(row, "load_s"):
        loaded = bench.run("load", [bench.environment / "bin/python", ROOT / "benchmarks/sets_load.py"])
        row.extensions = sum(map(len, json.loads(loaded.out.splitlines()[-1])["loaded"].values()))


@contextmanager
def timing(row: Row, name: str) -> Iterator[None]:
    """Note the seconds of a step that ends well."""
    started = time.perf_counter()
    yield
    setattr(row, name, round(time.perf_counter() - started, 1))


def install(wheels: Sequence[LockedWheel], paths: Sequence[Path], bench: BuildHost) -> None:
    """Install the environment, from the wheelhouse alone."""
    shutil.rmtree(bench.environment, ignore_errors=True)
    folder, lock = bench.work / "incoming", bench.work / "lock.txt"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in paths:
        (folder / path.name).symlink_to(path)
    lock.write_text(lock_text(wheels), encoding="utf-8")
    uv = uv_program()
    bench.run("venv", [uv, "venv", "--quiet", "--offline", "--python", bench.python, bench.environment])
    sync: list[str | Path] = [
        uv,
        "pip",
        "sync",
        "--quiet",
        "--offline",
        "--no-index",
        "--find-links",
        folder,
        "--require-hashes",
    ]
    bench.run("install", [*sync, "--python", bench.environment / "bin/python", lock])


def prune(store: Store, wanted: Sequence[LockedWheel]) -> None:
    """Keep only wheels of the current set: the next one shares most of them."""
    names = {wheel.name for wheel in wanted}
    for path in store.root.rglob("*.whl"):
        if path.name not in names:
            path.unlink()


def keep(rows: dict[str, Row]) -> None:
    """Store all rows in the order of releases, the newest first."""
    ordered = sorted(rows.values(), key=lambda row: (Version(row.vllm), row.set), reverse=True)
    result = header("sets") | {"host": HOST, "sets": [asdict(row) for row in ordered]}
    result["versions"]["uv"] = locked_hashes(LOCK, "uv")[0]
    whole = RESULT.with_suffix(".new")
    whole.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    whole.replace(RESULT)


def known() -> dict[str, Row]:
    """Return the rows of earlier runs by their set."""
    if not RESULT.exists():
        return {}
    return {row["set"]: Row(**row) for row in json.loads(RESULT.read_text(encoding="utf-8"))["sets"]}


def one(candidate: Candidate, stack: Stack, bench: BuildHost, python: str) -> Row:
    """Return the row of a set after trying it."""
    assert stack.vllm is not None
    row = Row(candidate.id, stack.vllm.version, stack.vllm.variant, stack.torch.version, python)
    held = stack.dependencies
    row.until, row.bounds = (held.until, list(held.bounds)) if held else (None, [])
    try:
        try_set(row, stack, bench)
    except IndexUnreachableError as error:
        vendors = [index for index in (stack.vllm.index, stack.torch.index) if index in error.places]
        row.error = f"index not reached: {', '.join(dict.fromkeys(vendors)) or 'the main one'}"
    except (SetError, FirstlightError) as error:
        row.ok, row.error = False, plain(str(error))
    else:
        row.ok = True
    row.at = datetime.now(UTC).isoformat(timespec="seconds")
    return row


def plain(text: str) -> str:
    """Return an error without addresses of the user's own indexes and folders of this machine, limited to the maximum length."""
    without = re.sub(r"\b(?:https?|file)://\S+", "(address)", text)
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+", "", without)[:LONGEST]


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--python", type=Path, required=True, help="the interpreter of the environments")
    arguments.add_argument("--libraries", type=Path, required=True, help="the driver's user libraries")
    arguments.add_argument("--work", type=Path, default=Path.home() / ".cache/firstlight-sets")
    arguments.add_argument("--only", nargs="+", default=[], metavar="RELEASE")
    arguments.add_argument("--again", action="store_true", help="do finished sets again, too")
    options = arguments.parse_args()
    command = [options.python, "-c", "import platform; print(platform.python_version())"]
    python = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    (options.work / "home").mkdir(parents=True, exist_ok=True)
    bench = BuildHost(
        options.python.absolute(),
        options.libraries.absolute(),
        options.work.absolute(),
        find_sources(read_settings()),
        Store(options.work.absolute() / "wheels", limit_bytes=1 << 40),
    )
    torch = None
    for candidate, stack in sets(python):
        assert stack.vllm is not None
        before, held = known().get(candidate.id), stack.dependencies
        is_done = before and held and (before.until, before.bounds) == (held.until, list(held.bounds))
        if (options.only and stack.vllm.version not in options.only) or (is_done and not options.again):
            continue
        if torch not in {None, stack.torch.version}:
            shutil.rmtree(bench.work / "uv", ignore_errors=True)
        torch = stack.torch.version
        row = one(candidate, stack, bench, python)
        keep({**known(), row.set: row})
        say(f"{row.set}: {'ok' if row.ok else row.error} ({row.lock_s} {row.fetch_s} {row.install_s} {row.load_s} s)")
    shutil.rmtree(bench.environment, ignore_errors=True)
    return 0 if all(row.ok is not False for row in known().values()) else 1


if __name__ == "__main__":
    sys.exit(main())
