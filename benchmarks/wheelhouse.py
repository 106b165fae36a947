"""The time of a look-up in a wheelhouse of many files: `python -m benchmarks.wheelhouse [--files N]`.

The wheelhouse is made in a temporary folder with small files, then each look-up asks for a file by its hash as `stage` does: stamp read,
compared, touched. Aim: p99 under 7 ms at 10,000 files.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.machine import header, publish
from provision.phases.stage.wheelhouse import Store

AIM_P99_MS = 7.0


def fill(store: Store, count: int) -> list[tuple[str, str]]:
    """Write that many small files directly, because storing is not measured; return their hashes and names."""
    stored = []
    for number in range(count):
        content = number.to_bytes(8, "big")
        sha256, name = hashlib.sha256(content).hexdigest(), f"package_{number}-1.0-py3-none-any.whl"
        path = store.folder(sha256) / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        store.stamp(path)
        stored.append((sha256, name))
    return stored


def measure(store: Store, wanted: list[tuple[str, str]]) -> list[float]:
    """Return the milliseconds of each look-up, ascending."""
    times = []
    for sha256, name in wanted:
        started = time.perf_counter()
        found = store.find(sha256, name)
        times.append((time.perf_counter() - started) * 1000)
        assert found
    return sorted(times)


def at(ordered: list[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--lookups", type=int, default=10_000)
    options = parser.parse_args()
    result = header("wheelhouse look-up")
    with TemporaryDirectory(prefix="firstlight-") as folder:
        store = Store(Path(folder), limit_bytes=1 << 40)
        stored = fill(store, options.files)
        times = measure(store, random.Random(1).choices(stored, k=options.lookups))
        started = time.perf_counter()
        removed = store.prune()
        prune_s = time.perf_counter() - started
    p99 = at(times, 0.99)
    result |= {
        "files": options.files,
        "lookups": options.lookups,
        "p50_ms": at(times, 0.5),
        "p99_ms": p99,
        "max_ms": round(times[-1], 4),
        "prune_scan_s": round(prune_s, 3),
        "pruned_bytes": removed,
        "aim": {"p99_ms": AIM_P99_MS, "met": p99 < AIM_P99_MS},
    }
    publish(result, "wheelhouse")
    return 0 if p99 < AIM_P99_MS else 1


if __name__ == "__main__":
    sys.exit(main())
