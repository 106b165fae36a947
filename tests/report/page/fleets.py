"""Invented fleets for the page's tests: records as the phases write them, with the same values in each run."""

import json
import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from provision.core.models.records import AttentionProof, PhaseName, PhaseResult, ServeRecord
from provision.core.models.stack import Plan, Reason, Resolution
from provision.core.models.staged import Staged
from provision.core.run_folder import RunFolder
from provision.report import summarise, write
from tests.report import sample
from tests.report.sample import CPU_STACK, GPU_STACK, REFUSED, STARTED, Folder, check, document, facts, host, result

RUN = "20261120T101500Z"
CARD = json.loads((Path(__file__).parents[3] / "benchmarks/results/card-serving.json").read_text(encoding="utf-8"))
"""A run on one NVIDIA H100; its record has no evidence."""
CARD_PCI = "0000:00:06.0"


def reason(rule: str, text: str, source: str | None = None) -> Reason:
    """Return a reason to take the build that the fleet has."""
    return Reason(rule=rule, verdict="accept", candidate="vllm-0.26.0-cu130", text=text, source=source)


WHY = (
    reason(
        "driver",
        "driver 580.65.06 is there, CUDA 13.0 needs 580",
        "https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/",
    ),
    reason("arch", "sm 9.0 of all 8 GPUs is among the wheel's", "cuobjdump of the wheel"),
    reason("attention", "FLASH_ATTN of generation 3: every GPU is sm 9.0"),
)
NEWER = {
    "verdict": "reject",
    "candidate": "vllm-0.27.0-cu131",
    "text": "driver 580.65.06 is there, CUDA 13.1 needs 590",
}
AGAINST = (WHY[0].model_copy(update=NEWER), REFUSED)
DONE_AT: dict[PhaseName, float] = {
    "probe": 0.5,
    "plan": 0.6,
    "stage": 21.9,
    "install": 60.2,
    "verify": 73.1,
    "serve": 94.2,
}


def noise(index: int, salt: int) -> float:
    """Return a value in -1..1 that looks random and is the same each time."""
    return math.modf(math.sin(index * 12.9898 + salt * 78.233) * 43758.5453)[0]


FLOORS = {"unit": "TFLOP/s", "floor": 675.3, "source": "achieved by others, times 0.85"}
BANDWIDTH = {"unit": "GB/s", "floor": 2512.5, "source": "data sheet, times 0.75"}
ERROR = {"unit": "share of bound", "ceiling": 1.0, "source": "N. Higham, eq. 3.13"}
SLOW_REMEDY = "check clocks, power cap and temperature: nvidia-smi -q -d CLOCK,POWER,TEMPERATURE,PERFORMANCE"
SLOW = "slow: bfloat16 products 402 TFLOP/s, at least 675"

H100 = "NVIDIA H100 80GB HBM3"


def pci(card: int) -> str:
    return f"0000:{0x1B + card:02x}:00.0"


def per_card(name: str, card: int, value: float, unit: str) -> dict[str, Any]:
    """Return a figure of one card that is at its bound."""
    return {"name": f"{name}: {pci(card)}", "value": value, "unit": unit, "floor": value, "source": "its default"}


def health(card: int) -> dict[str, Any]:
    return {
        "pci": pci(card),
        "name": H100,
        "ecc": [True, True],
        "uncorrected": [0, 0],
        "temperature_c": 31,
        "power_w": 71.2,
    }


def gpu_checks(index: int, *, slow: bool = False, wrong: bool = False) -> list[dict[str, Any]]:
    """Return the records of `verify` for a host with eight cards; the third is `slow`, or computes `wrong` results."""
    records = [
        check("devices.gpus", device=None, reason="PCI, driver, NVML and torch see the same 8 GPUs"),
        check("libraries.lock", device=None, reason="all 149 distributions match the lock"),
        check("devices.ecc", device=None, evidence=[health(card) for card in range(8)]),
        check("devices.clocks", device=None, figures=[per_card("power limit", card, 700.0, "W") for card in range(8)]),
        check("devices.nvlink", device=None, figures=[per_card("links up", card, 18.0, "count") for card in range(8)]),
        check("engine.vllm", device=None, reason="vLLM 0.26.0 imports and computes on cuda"),
    ]
    for card in range(8):
        records += card_checks(f"cuda:{card}", index * 8 + card, slow=slow and card == 2, wrong=wrong and card == 2)
    return records


def load(salt: int, *, slow: bool) -> dict[str, Any]:
    """Return the state of a GPU during the matrix products."""
    if slow:
        return {"clock_mhz": 1095, "power_w": 402, "temperature_c": 84}
    return {
        "clock_mhz": 1740 + round(15 * noise(salt, 10)),
        "power_w": int(640 + 20 * noise(salt, 11)),
        "temperature_c": 57 + round(4 * noise(salt, 12)),
    }


def card_checks(device: str, salt: int, *, slow: bool, wrong: bool) -> list[dict[str, Any]]:
    speed = 402.0 if slow else round(718 + 14 * noise(salt, 1), 1)
    error = 3.27 if wrong else round(0.47 + 0.03 * noise(salt, 3), 4)
    lengths = [128 << step for step in range(8)]
    peaks = {
        "flash": {str(length): length * 520 + 4096 for length in lengths},
        "standard": {str(length): length * length * 8 + length * 1024 for length in lengths[:-1]},
    }
    times = {
        "flash": {str(length): round(0.02 + length**2 * 3e-8, 4) for length in lengths},
        "standard": {str(length): round(0.09 + length**2 * 4e-7, 4) for length in lengths},
    }
    speeds = {"forward, head dimension 64, milliseconds by length": times}
    wrong_values: dict[str, Any] = {
        "reason": "bfloat16: error 3.27 times its bound",
        "remedy": "drain the host and replace the GPU",
        "evidence": {"call": "a @ b against float64 on the CPU", "shapes": [[256, 512, 192], [127, 1000, 65]]},
    }
    slow_values: dict[str, Any] = {"reason": SLOW, "remedy": SLOW_REMEDY}
    lanes = {"value": 16.0, "unit": "count", "floor": 16.0, "source": "maximum of GPU and slot"}
    return [
        check(
            "devices.pcie",
            device=device,
            figures=[
                {"name": "lanes", **lanes},
                {"name": "speed", **lanes, "value": 32.0, "unit": "GT/s", "floor": 32.0},
            ],
        ),
        check(
            "kernels.gemm",
            "fail" if wrong else "ok",
            device=device,
            figures=[{"name": "error, bfloat16", "value": error, **ERROR}],
            **(wrong_values if wrong else {}),
        ),
        check(
            "speed.gemm",
            "warn" if slow else "ok",
            device=device,
            figures=[{"name": "bfloat16 products", "value": speed, **FLOORS}],
            evidence={"name": H100, "load": load(salt, slow=slow)},
            **(slow_values if slow else {}),
        ),
        check(
            "speed.memory",
            device=device,
            figures=[{"name": "memory, read and written", "value": round(3010 + 60 * noise(salt, 2)), **BANDWIDTH}],
        ),
        check("speed.attention", device=device, evidence=speeds),
        check("memory.attention", device=device, evidence={"peak bytes by length": peaks, "dtype": "float16"}),
    ]


def served(name: str, index: int) -> ServeRecord:
    """Return the proof of a service, whose start took a little more or less time than others."""
    engine = 41 + 6 * noise(index, 4)
    ends = {"health": engine, "first_answer": 0.4, "first_token": engine + 0.6, "proven": engine + 3.4}
    own = {
        "endpoint": f"http://{name}.example.net:8000/v1",
        "model": "Qwen/Qwen3-0.6B",
        "startup_s": {phase: round(seconds, 2) for phase, seconds in ends.items()},
    }
    return sample.served("FLASH_ATTN", generation=3).model_copy(update=own)


def end(run: RunFolder) -> None:
    """End the run: write its summary."""
    write(run, summarise(run))


class Fleet(Folder):
    """A run's folder with the times at which each phase ended for each host."""

    def events(self, results: Iterable[PhaseResult], ends: dict[PhaseName, float]) -> None:
        def at(seconds: float) -> str:
            return (datetime.fromisoformat(STARTED) + timedelta(seconds=seconds)).isoformat()

        lines = [
            {"at": at(ends[phase]), "kind": "phase", "phase": phase, "seconds": round(ends[phase] - before, 3)}
            for phase, before in zip(ends, (0.0, *ends.values()), strict=False)
        ]
        lines += [
            {
                "at": at(ends[each.phase] - 0.1),
                "kind": "result",
                "host": each.host,
                "phase": each.phase,
                "status": each.status,
            }
            for each in results
        ]
        self.run.path("events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def one_gpu(folder: Path) -> RunFolder:
    """One local host with the figures of a real run on an H100, and readings as its driver gives them."""
    fleet = Fleet(folder / "one" / RUN, [host("localhost", local=True)], source="/site/inventory/local")
    stack = GPU_STACK.model_copy(
        update={"driver": GPU_STACK.driver and GPU_STACK.driver.model_copy(update={"version": "580.159.04"})}
    )
    fleet.planned(["localhost"], stack)
    fleet.staged(["localhost"], stack)
    invented = {record["id"]: record["evidence"] for record in gpu_checks(0) if record["device"] in (None, "cuda:0")}
    records = [
        check(record["id"]) | record | {"evidence": invented.get(record["id"])}
        for record in (*CARD["checks"], *CARD["serving_checks"])
    ]
    for record in records:
        record["figures"] = [
            {**figure, "name": figure["name"].replace(CARD_PCI, pci(0))} for figure in record["figures"]
        ]
    fleet.green("localhost", gpus=1, records=records)
    proof = AttentionProof.model_validate(CARD["attention"])
    proven = sample.served().model_copy(update={"attention": proof, "startup_s": CARD["startup_s"]})
    fleet.run.write("serve/localhost.json", proven)
    fleet.events([result("localhost", phase) for phase in DONE_AT], DONE_AT)
    end(fleet.run)
    return fleet.run


PORT = "port 8000 is taken by nginx (process 812, user www-data)"
PORT_IN_USE = {
    "cause": "port-in-use",
    "confidence": 0.93,
    "evidence": [f"serve:1: {PORT}"],
    "fix": ["See who listens: ss -ltnp 'sport = :8000'", "Set another firstlight_port, or stop that service"],
}
LOST, TAKEN, WRONG, SLOW_HOST = "gpu-017", "gpu-042", "gpu-058", "gpu-071"
FAILED = {
    LOST: result(
        LOST,
        "probe",
        "unreachable",
        seconds=10.0,
        text=f"`{LOST}.example.net:2222` did not answer within 10 s",
        hint=f"try: ssh -p 2222 ops@{LOST}.example.net",
    ),
    TAKEN: result(
        TAKEN,
        "serve",
        "failed",
        seconds=2.1,
        text=f"the service ended: preflight refuses: {PORT}",
        evidence=("preflight: bind: Address already in use",),
    ),
    WRONG: result(WRONG, "verify", "failed", text="kernels.gemm failed on cuda:2"),
}


def large(folder: Path) -> RunFolder:
    """96 GPU hosts and 4 CPU hosts; one unreachable, one with port 8000 taken, one with a card that computes wrong, one with a slow one."""
    gpus, cpus = [f"gpu-{number:03}" for number in range(1, 97)], [f"cpu-{number}" for number in range(1, 5)]
    fleet = Fleet(folder / RUN, [host(name) for name in (*gpus, *cpus)], source="inventory/mysite")
    reached = [name for name in gpus if name != LOST]
    classes = (
        Resolution(hosts=tuple(reached), stack=GPU_STACK, reasons=(*WHY, *AGAINST)),
        Resolution(hosts=tuple(cpus), stack=CPU_STACK, reasons=(REFUSED,)),
    )
    fleet.run.write("plan.json", Plan(classes=classes))
    for group, stack in ((reached, GPU_STACK), (cpus, CPU_STACK)):
        staged = Staged(hosts=tuple(group), stack=stack, lock="stage/lock.txt", lock_digest="ab12", environment="cd34")
        fleet.run.write(f"stage/{group[0]}.json", staged)
    fleet.run.write(f"findings/{TAKEN}.json", [PORT_IN_USE])
    results: list[PhaseResult] = []
    for index, name in enumerate((*gpus, *cpus)):
        passed, failed, is_gpu = [*DONE_AT], FAILED.get(name), name in gpus
        if failed:
            del passed[passed.index(failed.phase) :]
        results += [result(name, phase, seconds=DONE_AT[phase] / 3 + noise(index, 5)) for phase in passed]
        results += [failed] if failed else []
        if passed:
            records = [check("kernels.gemm", reason="within its bound")]
            if is_gpu:
                records = gpu_checks(index, slow=name == SLOW_HOST, wrong=name == WRONG)
            fleet.run.write(f"facts/{name}.json", facts(name, gpus=8 if is_gpu else 0))
            fleet.run.write(f"verify/{name}.json", document(records))
        if "serve" in passed:
            attention = {} if is_gpu else {"attention": AttentionProof(asked="CPU_ATTN", used="CPU_ATTN")}
            fleet.run.write(f"serve/{name}.json", served(name, index).model_copy(update=attention))
    fleet.results(*results)
    fleet.events(results, DONE_AT)
    end(fleet.run)
    return fleet.run


PLANTED = '<script>document.title="planted"</script>'
"""Markup that a host may write anywhere; if it runs, `planted` becomes the title."""
HOSTILE = f"{PLANTED}<img src=x onerror='document.title=\"planted\"'>\"'`</style></title></svg><a href='javascript:0'>"


def hostile(folder: Path) -> RunFolder:
    """Two hosts whose every text is markup: names, reasons, evidence, sources, units, findings."""
    names = [f"a{HOSTILE.replace('/', '')}", "b"]
    fleet = Fleet(folder / RUN, [host(name) for name in names], source=HOSTILE)
    chosen = Reason(rule=HOSTILE, verdict="accept", candidate=HOSTILE, text=HOSTILE, source=HOSTILE)
    running = chosen.model_copy(update={"source": "javascript:document.title='planted'"})
    reasons = [chosen, running, chosen.model_copy(update={"verdict": "reject", "candidate": f"{HOSTILE}2"})]
    fleet.planned(names, GPU_STACK.model_copy(update={"fabric_manager": HOSTILE}), *reasons)
    figures = [
        {"name": HOSTILE, "value": value, "unit": HOSTILE, "floor": 2.0, "source": HOSTILE} for value in (1.0, 3.0)
    ]
    record = check(
        HOSTILE, "fail", device=HOSTILE, reason=HOSTILE, remedy=HOSTILE, figures=figures, evidence={HOSTILE: HOSTILE}
    )
    results = []
    for index, name in enumerate(names):
        known = facts(name, gpus=1)
        assert known.nvidia
        card = known.nvidia.gpus[0].model_copy(update={"name": HOSTILE})
        nvidia = known.nvidia.model_copy(update={"gpus": (card,), "driver_version": HOSTILE})
        fleet.run.write(f"facts/{name}.json", known.model_copy(update={"nvidia": nvidia}))
        fleet.run.write(f"verify/{name}.json", document([record]))
        phases = {HOSTILE: 3.0, "health": 2.0}
        fleet.run.write(f"serve/{name}.json", served(name, index).model_copy(update={"startup_s": phases}))
        finding = {"cause": HOSTILE, "confidence": 0.9, "evidence": [HOSTILE], "fix": [HOSTILE]}
        fleet.run.write(f"findings/{name}.json", [finding, finding])
        wrong = result(name, "verify", "failed", text=HOSTILE, hint=HOSTILE, evidence=(HOSTILE, "\x1b[31m\u202ered"))
        results += [result(name, "probe"), wrong]
    fleet.results(*results)
    fleet.events(results, {"probe": 1.0, "verify": 4.0})
    return fleet.run
