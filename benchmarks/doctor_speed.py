"""CPU seconds and memory of the doctor for long logs.

    .venv/bin/python -m benchmarks.doctor_speed [--megabytes 1 100 200]

The logs are those of a server, and those of NCCL, with numbers and identifiers that never repeat, and a failure at their end. Each is read by a
process of its own, whose CPU time and peak memory count; wall time depends on other work of the machine. Aim: 0.2 s a
megabyte, for small logs 1 s, and 200 MB of memory.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path

from benchmarks.harness import ROOT, header, parser, publish, say

SIZES_MB = (1, 100, 200)
LEAST_CPU_S, CPU_S_PER_MB = 1.0, 0.2
"""Of the aim: a process needs a part of the first second to start."""
MOST_MEMORY_MB = 200
FAILURE = "ImportError: libtorch_cuda.so: undefined symbol: ncclCommWindowRegister\n"
CAUSE = "nccl-duplicate"
WORDS = ("request", "prompt", "token", "stream", "batch", "slot", "queue", "worker", "shard", "rank", "layer", "block")


def write_log(path: Path, size: int, make_line: Callable[[random.Random], str]) -> None:
    """Write a log of that many bytes, line by line, with the failure at its end."""
    chance = random.Random(7)
    with path.open("w", encoding="utf-8") as file:
        written = 0
        while written < size:
            written += file.write(make_line(chance) + "\n")
        file.write(FAILURE)


def server_line(chance: random.Random) -> str:
    """Return a line of throughput, of a request, of the scheduler, or of another program."""
    kind = chance.random()
    if kind < 0.5:
        rates = ", ".join(f"{name}: {chance.random() * 900:.1f} tokens/s" for name in ("Avg prompt throughput", "Avg"))
        return f"(APIServer pid=301) INFO 11-20 08:{chance.randrange(60):02d} [loggers.py:127] Engine 000: {rates}"
    if kind < 0.75:
        port = chance.randrange(20000, 60000)
        return f'INFO:     10.0.{chance.randrange(255)}.9:{port} - "POST /v1/completions HTTP/1.1" 200 OK'
    if kind < 0.95:
        name, words = f"cmpl-{chance.getrandbits(128):032x}", " ".join(chance.choices(WORDS, k=12))
        return f"(EngineCore pid=411) DEBUG [scheduler.py:{chance.randrange(999)}] {name}: {words}"
    return chance.choice(_healthy_lines())


@cache
def _healthy_lines() -> list[str]:
    logs = sorted((ROOT / "tests/doctor/healthy").glob("*.log"))
    return [line for log in logs for line in log.read_text(encoding="utf-8").splitlines() if line]


def nccl_line(chance: random.Random) -> str:
    """Return a line of a channel, of a communicator or of a collective; every number in it is drawn."""
    number = chance.randrange
    address = [f"0x{chance.getrandbits(48):x}" for _ in range(4)]
    collective = (
        f"AllReduce: opCount {number(999999):x} sendbuff {address[0]} recvbuff {address[1]} count {number(999999)} "
        f"datatype 9 op 0 root 0 comm {address[2]} [nranks=8] stream {address[3]}"
    )
    messages = (
        f"Channel {number(64):02d}/0 : {number(64)}[{number(8)}] -> {number(64)}[{number(8)}] via P2P/CUMEM/read",
        f"comm {address[0]} rank {number(999)} nranks 999 busId {number(999999):x} commId {address[1]} - Init START",
        collective,
    )
    return f"node-7:{number(99999)}:{number(99999)} [{number(8)}] NCCL INFO {chance.choice(messages)}"


LOGS = {"server": server_line, "nccl": nccl_line}
"""What writes a line of each log, by the log's name."""


def read(log: Path) -> dict[str, float]:
    """Return CPU seconds and peak memory of `doctor FILE`. Raises AssertionError if it does not find the failure."""
    command = [sys.executable, "-m", "verify", "doctor", "--json", str(log)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout
    output = process.stdout.read()
    _, _, usage = os.wait4(process.pid, 0)
    assert json.loads(output)[0]["findings"][0]["cause"] == CAUSE
    return {"cpu_s": round(usage.ru_utime + usage.ru_stime, 2), "memory_mb": round(usage.ru_maxrss * 1024 / 1e6, 1)}


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--megabytes", type=int, nargs="+", default=SIZES_MB)
    result, rows = header("doctor-speed"), []
    for size, (name, make_line) in product(options.parse_args().megabytes, LOGS.items()):
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / f"{name}.log"
            write_log(log, size * 1_000_000, make_line)
            rows.append({"log": name, "log_mb": size, **read(log), "most_cpu_s": max(LEAST_CPU_S, CPU_S_PER_MB * size)})
        say(str(rows[-1]))
    met = all(row["cpu_s"] <= row["most_cpu_s"] and row["memory_mb"] <= MOST_MEMORY_MB for row in rows)
    publish(result | {"logs": rows, "aim": {"memory_mb": MOST_MEMORY_MB, "met": met}}, "doctor-speed")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
