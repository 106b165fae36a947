"""Comparison of the catalog with the artifacts: every vLLM and torch row with the wheels that the user's index has today.

    .venv/bin/python -m benchmarks.catalog_truth

Pins, Python ranges, architectures and CUDA are read from the wheels' metadata and from one small file in each, by range requests: no wheel is
fetched completely. Needs the index; nothing is timed. The result is stored as benchmarks/results/catalog-truth.json.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime

from benchmarks.machine import publish
from provision.catalog import Catalog
from provision.catalog.refresh.compare import compare
from provision.catalog.refresh.index_wheels import WheelIndex

FIELDS = {
    "vllm": [
        "date",
        "python",
        "torch",
        "cuda",
        "machines",
        "torchvision",
        "torchaudio",
        "flashinfer",
        "flashinfer_cubin",
        "glibc",
    ],
    "torch": ["python", "pythons", "default_x86_64", "default_aarch64", "glibc"],
}


def main() -> int:
    index = WheelIndex()
    try:
        found = compare(Catalog(), index)
    finally:
        index.close()
    result = {
        "benchmark": "catalog-truth",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "compared": {"vllm": found.releases, "torch": found.torches, "fields": FIELDS},
        "differences": [asdict(item) for item in found.differences],
        "rows_without_a_wheel_on_the_index": list(found.gone),
    }
    publish(result, "catalog-truth", always=True)
    return 1 if found.differences else 0


if __name__ == "__main__":
    sys.exit(main())
