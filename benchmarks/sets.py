"""Which vLLM releases make a working set: each is locked, installed, loaded and run with `--help`, with the real wheels.

    .venv/bin/python -m benchmarks.sets --python /usr/bin/python3.12 --libraries DIR [--work DIR] [--only RELEASE ...] [--again]

For every catalogued release from 0.8.5 and each of its CUDA builds that the plan would choose for one H100, this does what
`./firstlight catalog refresh --prove` does for the newest: the product's own lock and wheels, an environment that uv makes from them with all
hashes required, every extension module loaded with the NVIDIA driver's user libraries (`--libraries`: a folder with libcuda.so.1 and
libnvidia-ml.so.1; no card is needed), `vllm serve --help`, and the engine's configuration. A build whose index does not answer is listed as not
reached. A finished set is not repeated, except with `--again` or after its bounds changed. There is one environment at a time on the disk;
wheels stay as long as the next release needs them. Each row is stored immediately.
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

from benchmarks.harness import RESULTS, header, parser, say
from provision.catalog import catalog
from provision.catalog.index.project_page import find_sources
from provision.catalog.index.settings import read_settings
from provision.core.errors import FirstlightError, IndexUnreachableError
from provision.core.models.settings import Settings
from provision.core.models.stack import Candidate, Stack
from provision.features.catalog_refresh.proof import Ground, install, load
from provision.phases.plan import choose_stacks
from provision.phases.plan.what_if import parse_what_if
from provision.phases.stage.programs import locked_uv
from provision.phases.stage.solve import LockedWheel
from provision.phases.stage.stack_lock import fetch_wheels, lock_stack, unpacked_size
from provision.phases.stage.staging import accepted
from provision.phases.stage.wheelhouse import Store

OLDEST = Version("0.8.5")
HOST = "gpu=H100x1 driver=580.65.06 os=ubuntu-24.04 glibc=2.39 arch=x86_64 cpu=avx512 ram=256 disk=500"
RESULT = RESULTS / "sets.json"
SHOWN = ("transformers", "tokenizers", "numpy")
LONGEST = 400
"""Maximum number of characters of an error in a row."""


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
            [resolution] = choose_stacks({facts.host: facts}, {facts.host: settings}).classes
            found += accepted(resolution) if resolution.stack else []
    yield from sorted(
        found, key=lambda pair: (Version(pair[1].torch.version), Version(pair[0].id.split("-")[1])), reverse=True
    )


def try_set(row: Row, stack: Stack, ground: Ground) -> None:
    """Fill the row. Raises ProofError, or StageError if there is no lock."""
    sources, store = find_sources(read_settings()), Store(ground.folder / "wheels", limit_bytes=1 << 40)
    with timing(row, "lock_s"):
        wheels = lock_stack(stack, sources, store).wheels
    row.versions = {wheel.distribution: wheel.version for wheel in wheels if wheel.distribution in SHOWN}
    row.distributions = len(wheels)
    prune(store, wheels)
    with timing(row, "fetch_s"):
        fetch_wheels(wheels, sources, store)
    paths = [store.path(wheel.sha256, wheel.name) for wheel in wheels]
    row.wheels = sum(path.stat().st_size for path in paths)
    row.unpacked = unpacked_size(paths)
    with timing(row, "install_s"):
        install(wheels, paths, ground)
    with timing(row, "load_s"):
        row.extensions = load(stack, ground)


@contextmanager
def timing(row: Row, name: str) -> Iterator[None]:
    """Note the seconds of a step that ends well."""
    started = time.perf_counter()
    yield
    setattr(row, name, round(time.perf_counter() - started, 1))


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
    result["versions"]["uv"] = locked_uv()[0]
    whole = RESULT.with_suffix(".new")
    whole.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    whole.replace(RESULT)


def known() -> dict[str, Row]:
    """Return the rows of earlier runs by their set."""
    if not RESULT.exists():
        return {}
    return {row["set"]: Row(**row) for row in json.loads(RESULT.read_text(encoding="utf-8"))["sets"]}


def one(candidate: Candidate, stack: Stack, ground: Ground, python: str) -> Row:
    """Return the row of a set after trying it."""
    assert stack.vllm is not None
    row = Row(candidate.id, stack.vllm.version, stack.vllm.variant, stack.torch.version, python)
    held = stack.dependencies
    row.until, row.bounds = (held.until, list(held.bounds)) if held else (None, [])
    try:
        try_set(row, stack, ground)
    except IndexUnreachableError as error:
        vendors = [index for index in (stack.vllm.index, stack.torch.index) if index in error.places]
        row.error = f"index not reached: {', '.join(dict.fromkeys(vendors)) or 'the main one'}"
    except FirstlightError as error:
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
    options.work.mkdir(parents=True, exist_ok=True)
    ground = Ground(options.python.absolute(), options.libraries.absolute(), options.work.absolute())
    torch = None
    for candidate, stack in sets(python):
        assert stack.vllm is not None
        before, held = known().get(candidate.id), stack.dependencies
        is_done = before and held and (before.until, before.bounds) == (held.until, list(held.bounds))
        if (options.only and stack.vllm.version not in options.only) or (is_done and not options.again):
            continue
        if torch not in {None, stack.torch.version}:
            shutil.rmtree(ground.folder / "uv", ignore_errors=True)
        torch = stack.torch.version
        row = one(candidate, stack, ground, python)
        keep({**known(), row.set: row})
        say(f"{row.set}: {'ok' if row.ok else row.error} ({row.lock_s} {row.fetch_s} {row.install_s} {row.load_s} s)")
    shutil.rmtree(ground.environment, ignore_errors=True)
    return 0 if all(row.ok is not False for row in known().values()) else 1


if __name__ == "__main__":
    sys.exit(main())
