"""The summary as text: complete texts of complete runs."""

from pathlib import Path

from syrupy.assertion import SnapshotAssertion

from provision.core.models.facts import Installed
from provision.core.models.stack import Reason
from tests.report.sample import (
    CHOSEN,
    CPU_STACK,
    GPU_STACK,
    REFUSED,
    SECONDS,
    Folder,
    check,
    checks,
    document,
    facts,
    host,
    result,
)

RUN = "20261120T101500Z"


def local(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / RUN, [host("localhost", local=True)], source="/home/ops/firstlight/inventory/local")
    folder.planned(["localhost"], CPU_STACK, CHOSEN, REFUSED)
    folder.staged(["localhost"], CPU_STACK)
    folder.green("localhost")
    return folder


def fleet(tmp_path: Path, count: int = 3) -> Folder:
    names = [f"gpu-{number}" for number in range(1, count + 1)]
    folder = Folder(tmp_path / RUN, [host(name) for name in names])
    folder.planned(names, GPU_STACK)
    folder.staged(names, GPU_STACK)
    for number, name in enumerate(names):
        rate = {"name": "bf16", "value": 640.0 + number, "unit": "TFLOPS", "floor": 500.0, "source": "x"}
        each = [check("kernel.matmul", device=f"cuda:{card}", figures=[rate]) for card in range(8)]
        folder.green(name, gpus=8, records=each)
    return folder


def test_one_green_cpu_host(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    assert local(tmp_path).text() == snapshot


def test_three_equal_hosts_are_shown_once(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    assert fleet(tmp_path).text() == snapshot


def test_forty_hosts_of_which_three_are_odd(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """All are of one kind: on two the port is taken, one is unreachable, the texts of the others differ in numbers."""
    folder = fleet(tmp_path, 40)
    for number in range(1, 41):
        name = f"gpu-{number}"
        folder.results(result(name, "install", text=f"{number + 3} tasks changed something"))
        folder.run.write(
            f"verify/{name}.json", document([check("kernel.matmul", reason=f"worst 0.{number} of the bound")])
        )
    for name in ("gpu-7", "gpu-23"):
        text, hint = "the service ended: port 8000 is held by nginx", "free the port, or set firstlight_port"
        folder.results(result(name, "serve", "failed", text=text, hint=hint, evidence=("address already in use",)))
        finding = {"cause": "port-in-use", "confidence": 0.97, "evidence": [], "fix": ["see who listens: ss -ltnp"]}
        folder.run.write(f"findings/{name}.json", [finding])
    folder.came_to("gpu-31", result("gpu-31", "probe", "unreachable", seconds=10.0, text="no answer within 10 s"))
    assert folder.text() == snapshot


def test_the_verdict_is_one_line_however_many_hosts_failed(tmp_path: Path) -> None:
    names = [f"rack{number}-inference-node.cluster.example.net" for number in range(30)]
    folder = Folder(tmp_path / RUN, [host(name) for name in names])
    for number, name in enumerate(names):
        folder.results(result(name, "probe", ("unreachable", "failed", "ok")[number % 3], text="no"))
    verdict, facts_of_run = folder.text().splitlines()[:2]
    assert verdict.startswith("RED: 30 hosts: 10 unreachable")
    assert "10 failed" in verdict
    assert facts_of_run.startswith("  run ")


def test_one_unreachable_among_three(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    folder = fleet(tmp_path)
    lost = result(
        "gpu-2",
        "probe",
        "unreachable",
        seconds=10.0,
        text="`gpu-2.example.net:2222` did not answer within 10 s",
        hint="try: ssh -p 2222 ops@gpu-2.example.net",
    )
    folder.came_to("gpu-2", lost)
    assert folder.text() == snapshot


def test_amber_for_a_warning_and_a_deviation(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    folder = local(tmp_path)
    newer = CPU_STACK.vllm.model_copy(update={"version": "0.33.0"}) if CPU_STACK.vllm else None
    folder.planned(["localhost"], CPU_STACK.model_copy(update={"vllm": newer}))
    refused = Reason(
        rule="lock", verdict="reject", candidate="vllm-0.33.0-cpu-community", text="uv found no torch 2.14.0+cpu"
    )
    folder.staged(["localhost"], CPU_STACK, refused)
    warned = check("host.clock", "warn", device=None, reason="the clock is 41 s off", remedy="timedatectl set-ntp true")
    folder.run.write("verify/localhost.json", document([*checks(), warned]))
    assert folder.text() == snapshot


def test_interrupted_in_install(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    folder = local(tmp_path)
    folder.came_to(
        "localhost",
        *(result("localhost", phase) for phase in ("probe", "plan", "stage")),
        result("localhost", "install", "interrupted", text="interrupted in task `Make the environment`"),
    )
    assert folder.text(interrupted=True) == snapshot


def test_second_run_unchanged(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    folder = local(tmp_path)
    verified = document(checks(), started_at="2026-11-20T07:15:00.000Z")
    folder.run.path("verify/localhost.json").unlink()
    installed = Installed(prefix="/opt/firstlight", last_verify=verified)
    folder.run.write("facts/localhost.json", facts("localhost", installed=installed))
    rest = [
        result("localhost", phase, "skipped", seconds=0.0, text="in the planned state") for phase in list(SECONDS)[2:]
    ]
    folder.results(*rest)
    assert folder.text() == snapshot


def test_failed_in_install(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    folder = fleet(tmp_path)
    for name in ("gpu-1", "gpu-2", "gpu-3"):
        folder.came_to(
            name,
            *(result(name, phase) for phase in ("probe", "plan", "stage")),
            result(
                name,
                "install",
                "failed",
                seconds=4.0,
                text=f"{name}: task `Have the OS packages` failed: No package matching `libnuma1` is available",
                hint="let the host reach its package sources, or name a mirror in them",
                evidence=("E: Unable to locate package libnuma1",),
            ),
        )
    assert folder.text() == snapshot


def test_no_stack_fits(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    folder = Folder(tmp_path / RUN, [host("old")])
    folder.run.write("facts/old.json", facts("old"))
    folder.planned(["old"], None, REFUSED)
    refused = result(
        "old", "plan", "failed", text="no combination of versions fits `old`", hint="nearest: glibc 2.31 or later"
    )
    folder.results(result("old", "probe"), refused)
    assert folder.text() == snapshot


def test_dry_run_changes_nothing(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    folder = Folder(tmp_path / RUN, [host("gpu-1")])
    folder.run.write("facts/gpu-1.json", facts("gpu-1", gpus=8))
    folder.planned(["gpu-1"], GPU_STACK)
    folder.results(result("gpu-1", "probe"), result("gpu-1", "plan"))
    assert folder.text() == snapshot
