"""CPU seconds and memory of the doctor for long logs.

    python -m benchmarks.doctor_speed

The logs are made of healthy lines with numbers and identifiers that never repeat, and a failure at their end: 1 MB and
200 MB. Each is read by a process of its own, whose CPU time and peak memory count; wall time depends on other work of
the machine and is not measured.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from benchmarks.machine import header, publish, say

ROOT = Path(__file__).resolve().parents[1]
SIZES_MB = (1, 200)
MOST_CPU_S = {1: 1.0, 200: 20.0}
MOST_MEMORY_MB = 200
FAILURE = "ImportError: libtorch_cuda.so: undefined symbol: ncclCommWindowRegister\n"
CAUSE = "nccl-duplicate"
WORDS = [
    "request",
    "prompt",
    "token",
    "stream",
    "batch",
    "slot",
    "queue",
    "worker",
    "shard",
    "rank",
    "layer",
    "block",
    "step",
    "router",
    "client",
    "session",
]


def main() -> int:
    result = header("doctor-speed")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES_MB:
            log = Path(folder) / f"{size}.log"
            write_log(log, size * 1_000_000)
            rows.append({"log_mb": size, **read(log), "most_cpu_s": MOST_CPU_S[size]})
            say(f"{size} MB: {rows[-1]}")
    result |= {"logs": rows, "most_memory_mb": MOST_MEMORY_MB}
    publish(result, "doctor-speed")
    return 0 if all(row["cpu_s"] <= row["most_cpu_s"] and row["memory_mb"] <= MOST_MEMORY_MB for row in rows) else 1


def write_log(path: Path, size: int) -> None:
    """Write a server's log of that many bytes: two thirds its own lines, the rest those of other programs."""
    chance = random.Random(7)
    healthy = tomllib.loads((ROOT / "verify/doctor/healthy.toml").read_text(encoding="utf-8"))
    other = [line for text in healthy.values() for line in text.splitlines() if line]
    with path.open("w", encoding="utf-8") as file:
        written = 0
        while written < size:
            written += file.write(line(chance, other))
        file.write(FAILURE)


def line(chance: random.Random, other: list[str]) -> str:
    kind = chance.random()
    if kind < 0.5:
        figures = ", ".join(
            f"{name}: {chance.random() * 900:.1f} tokens/s" for name in ("Avg prompt throughput", "Avg")
        )
        return f"(APIServer pid=301) INFO 11-20 08:{chance.randrange(60):02d} [loggers.py:127] Engine 000: {figures}\n"
    if kind < 0.75:
        port = chance.randrange(20000, 60000)
        return f'INFO:     10.0.{chance.randrange(255)}.9:{port} - "POST /v1/completions HTTP/1.1" 200 OK\n'
    if kind < 0.95:
        name = f"cmpl-{chance.getrandbits(128):032x}"
        return f"(EngineCore pid=411) DEBUG [scheduler.py:{chance.randrange(999)}] {name}: {' '.join(chance.choices(WORDS, k=12))}\n"
    return chance.choice(other) + "\n"


def read(log: Path) -> dict[str, float]:
    """Return CPU seconds and peak memory of `doctor FILE`. Raises AssertionError if it does not find the failure."""
    process = subprocess.Popen(
        [sys.executable, "-m", "verify.doctor", "--json", str(log)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout
    output = process.stdout.read()
    _, _, usage = os.wait4(process.pid, 0)
    assert json.loads(output)[0]["findings"][0]["cause"] == CAUSE
    return {"cpu_s": round(usage.ru_utime + usage.ru_stime, 2), "memory_mb": round(usage.ru_maxrss * 1024 / 1e6, 1)}


if __name__ == "__main__":
    sys.exit(main())
