"""Memory and descriptors of vLLM's server on this CPU, with the built-in model, over hours of light load.

    PYTHON -m benchmarks.soak [--hours 1]

PYTHON has vLLM for CPUs. The load, the pauses and the verdict are those of `verify soak`, without its kernels. Aim: every request has an
answer, and nothing grows. The result names the hours that it really ran.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.harness import header, parser, publish, say
from provision.phases.serve.onhost import builtin_model
from tests.verify.in_vllm.engine_server import started
from verify.serving.soak import evaluate, soak
from verify.tables import table


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--hours", type=float, default=1.0)
    seconds = 3600 * options.parse_args().hours
    result = header("soak", ["vllm", "torch"])
    pause_s = float(table("soak")["load"]["pause_s"])
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder)
        model, reference = prefix / "models/builtin-1", prefix / "reference.json"
        builtin_model.make(model, reference, "none")
        with started(prefix, model, reference=str(reference)) as service:
            seen = soak(service, seconds=seconds, between=lambda number: say(f"round {number}"), pause_s=pause_s)
            outcome = evaluate(seen, service.name)
    result |= {
        "hours": round(seen.samples[-1].seconds / 3600, 2),
        "requests": seen.asked,
        "status": outcome.status,
        "reason": outcome.reason,
        "figures": [asdict(figure) for figure in outcome.figures],
        "samples": [asdict(sample) for sample in seen.samples[:: max(1, len(seen.samples) // 60)]],
        "aim": {"status": "ok", "met": outcome.status == "ok"},
    }
    publish(result, "soak", always=True)
    return 0 if outcome.status == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
