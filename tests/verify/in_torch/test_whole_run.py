"""The tool as a user runs it, on this machine's CPU: all checks pass without faults, and every injected fault is found and named."""

from __future__ import annotations

import json
import os
import sysconfig
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from verify.binaries import distributions
from verify.host import devices
from verify.host.views import pci, torch_view
from verify.records import Check, CheckContext, CheckResult, Figure
from verify.runner import execution
from verify.runner.execution import run
from verify.runner.registry import all_checks, compare_speeds, service
from verify.serving.service import Service

ROOT = Path(__file__).resolve().parents[3]
CONTRACT = {"id", "family", "status", "host", "device", "reason", "figures", "evidence", "remedy", "seconds"}
CONTRACT |= {"level", "found"}
FAULTS = [(check, fault) for check in all_checks() for fault in check.faults]

SERVING = [check.id for check in all_checks() if service in check.preconditions]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A lock of the installed packages, a Stack that names them, and a substitute for vLLM, which is not installed here."""
    folder = tmp_path_factory.mktemp("stack")
    lock, stack = folder / "lock.txt", folder / "expect.json"
    lock.write_text("".join(f"{name}=={found[0].version}\n" for name, found in distributions.installed().items()))
    stack.write_text(json.dumps({"stack": {"torch": {"version": "2.13.0", "variant": "cpu"}, "vllm": None}, "gpus": 0}))
    package = folder / "site" / "vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '0.32.0+cpu'\n")
    (package / "platforms.py").write_text(
        "class Cpu:\n"
        "    def is_cpu(self): return True\n"
        "    def is_cuda(self): return False\n"
        "    def is_rocm(self): return False\n"
        "current_platform = Cpu()\n"
    )
    return {"lock": str(lock), "expect": str(stack), "vllm": str(package.parent)}


def test_a_healthy_cpu_host_is_green_at_every_level(run_many: Any, files: dict[str, str], tmp_path: Path) -> None:
    # torch's compiler takes 20 seconds of CPU time: it runs once, when its fault is injected
    without = ["--skip", "kernels.compile"]
    if pci.gpus("nvidia") or pci.gpus("amd"):
        without += ["--skip", "devices.gpus"]
    written = tmp_path / "verify" / "last.json"
    options = ("--lock", files["lock"], "--expect", files["expect"], "--write", str(written), *without)
    # memory to 8,192 tokens, which takes as long as all products, is measured in test_attention_speed.py
    answers = run_many([("--level", "quick", *options), ("--level", "full", "--skip", "memory.attention", *options)])
    for code, document in answers:
        bad = [check for check in document["checks"] if check["status"] not in ("ok", "skip")]
        assert (code, bad) == (0, [])
        assert all(set(check) == CONTRACT for check in document["checks"])
    document = answers[-1][1]
    assert json.loads(written.read_text()) == document
    assert next(check["reason"] for check in document["checks"] if check["id"] == "collectives.gloo") == (
        "all-reduce, all-gather, reduce-scatter of 2 processes are exact for all 100003 numbers"
    )
    skipped = {check["id"]: check["reason"] for check in document["checks"] if check["status"] == "skip"}
    assert {reason for check, reason in skipped.items() if check.startswith("attention.")} == {
        "it computes on AMD GPUs",
        "it computes on NVIDIA GPUs",
        "it computes on NVIDIA GPUs and AMD GPUs",
        "vllm is not installed in this environment",
    }
    without_cards = {check: reason for check, reason in skipped.items() if check.startswith("devices.")}
    assert set(without_cards.values()) == {
        "no NVIDIA GPU on the PCI bus",
        "no AMD GPU on the PCI bus",
        "a CPU has no PCIe link",
        "there are fewer than two GPUs",
    }
    others = {check: reason for check, reason in skipped.items() if not check.startswith(("attention.", "devices."))}
    assert others == {
        "installed.advisories": "no advisories were passed",
        "libraries.files": "this environment has no manifest to compare with",
        "libraries.gpu_code": "there is no GPU",
        "kernels.graph": "CPUs have no kernel graphs",
        "speed.copies": "no GPU to copy to",
        "collectives.nccl": "there are fewer than two GPUs",
        "collectives.pairs": "there are fewer than two GPUs",
        "collectives.peers": "there are fewer than two GPUs",
        "engine.flash_attn": "no flash-attn package is installed, and none is planned",
        "engine.vllm": "the plan has no vLLM",
        **{check.id: "the plan has no vLLM" for check in all_checks() if check.id.startswith("operators.vllm_")},
        "serving.load": "the plan has no vLLM",
        **dict.fromkeys(SERVING, "no service runs from this environment"),
    }


@pytest.fixture(scope="session")
def injected(files: dict[str, str], run_many: Any) -> dict[tuple[str, str], Any]:
    """The result of every check for every fault that it must notice: one run per fault, with the checks that know it."""
    faults = list(dict.fromkeys(fault for _, fault in FAULTS))
    runs = [
        # `--only` selects checks of every level; the lowest level computes the fewest problems
        ("--level", "quick", "--lock", files["lock"], "--inject", fault, *_only(fault))
        for fault in faults
    ]
    answers = run_many(runs, PYTHONPATH=files["vllm"])
    return {
        (record["id"], fault): record
        for fault, (_, document) in zip(faults, answers, strict=True)
        for record in document["checks"]
    }


def _only(fault: str) -> list[str]:
    return [word for check, known in FAULTS if known == fault for word in ("--only", check.id)]


@pytest.mark.parametrize(("check", "fault"), FAULTS, ids=lambda part: getattr(part, "id", part))
def test_each_check_notices_each_of_its_faults(check: Any, fault: str, injected: dict[tuple[str, str], Any]) -> None:
    record = injected[check.id, fault]
    assert record["status"] in ("warn", "fail"), record["reason"]
    assert record["reason"]


def reason_of(document: dict[str, Any], check: str) -> str:
    """Return the reason of a check; the document also has the checks that it depends on."""
    (reason,) = (str(record["reason"]) for record in document["checks"] if record["id"] == check)
    return reason


def test_every_check_can_crash_without_affecting_another(run_many: Any, files: dict[str, str]) -> None:
    ((code, document),) = run_many(
        [("--inject", "crash", "--level", "full", "--lock", files["lock"])], PYTHONPATH=files["vllm"]
    )
    assert code == 3
    assert {check["status"] for check in document["checks"]} == {"error"}
    assert [check["id"] for check in document["checks"]] == [check.id for check in all_checks()]


def test_a_burn_in_notices_a_fault_of_a_later_round(verify: Any) -> None:
    options = ("--level", "burn-in", "--hours", "0.0001", "--only", "kernels.vector_add", "--only", "collectives.gloo")
    code, document = verify(*options, "--inject", "wrong-result@kernels.vector_add")
    assert code == 2
    reason = reason_of(document, "kernels.vector_add")
    assert reason.startswith("in 1 of 2 rounds, first in round 2: "), reason
    assert reason_of(document, "collectives.gloo").endswith(" rounds)")


def test_an_injected_fault_without_a_check_is_an_error(run_many: Any) -> None:
    ((code, document),) = run_many([("--only", "libraries.lock", "--inject", "wrong-lock")])
    assert code == 3
    assert reason_of(document, "frame.run") == "the injected fault `wrong-lock` reached no check that runs here"


def test_a_vllm_that_cannot_be_imported_is_a_failure_with_its_error(verify: Any, tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text(
        "raise ImportError('_C.abi3.so: undefined symbol: _ZN5torch3jit1xE')"
    )
    code, document = verify("--only", "engine.vllm", PYTHONPATH=str(tmp_path))
    assert code == 2
    assert "_C.abi3.so: undefined symbol: _ZN5torch3jit1xE" in reason_of(document, "engine.vllm")


def vllm_package(folder: Path, *extensions: str) -> Path:
    """Write a package without code of its own, whose extensions are not libraries."""
    package = folder / "vllm"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('not to be imported')")
    for name in extensions:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_bytes(b"no library")
    return package


@pytest.mark.parametrize(
    "extensions",
    [
        ("_C.abi3.so", "_C_AVX512.abi3.so", "_C_AVX2.abi3.so"),
        ("_C_stable_libtorch.abi3.so",),
        ("_moe_C.abi3.so",),
        ("vllm_flash_attn/_vllm_fa2_C.abi3.so",),
    ],
    ids=lambda names: names[0],
)
def test_an_extension_that_does_not_load_is_a_failure_that_names_it(
    verify: Any, tmp_path: Path, extensions: tuple[str, ...]
) -> None:
    vllm_package(tmp_path, *extensions)
    code, document = verify("--only", "libraries.loaded", PYTHONPATH=str(tmp_path))
    assert code == 2
    assert "vLLM's kernels do not load" in reason_of(document, "libraries.loaded")
    assert str(tmp_path / "vllm") in reason_of(document, "libraries.loaded")


def test_extensions_of_other_cpus_and_pythons_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names from the wheels of 0.26.0 (CUDA) and 0.32.0 (CPU)."""
    monkeypatch.syspath_prepend(tmp_path)
    other, own = "cpython-310-x86_64-linux-gnu.so", sysconfig.get_config_var("EXT_SUFFIX")
    cpu = ("_C.abi3.so", "_C_AVX512.abi3.so", "_C_AVX2.abi3.so")
    named = ("_C_stable_libtorch.abi3.so", "cumem_allocator.abi3.so", f"third_party/deep_gemm/_C{own}")
    package = vllm_package(tmp_path, *cpu, *named, f"third_party/deep_gemm/_C.{other}")
    for name in ("_is_avx512_bf16_supported", "_is_avx512_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx2_supported", lambda: True)
    assert distributions.all_extensions() == sorted(package / name for name in ("_C_AVX2.abi3.so", *named))
    assert distributions.truncated_types() == {"bfloat16"}
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert distributions.truncated_types() == frozenset()


def test_a_library_of_the_search_path_that_replaces_the_environments_is_named(verify: Any, tmp_path: Path) -> None:
    """The loader really uses it: torch's own libraries have a RUNPATH, which LD_LIBRARY_PATH precedes."""
    (own,) = (Path(torch.__file__).parent / "lib").glob("libgomp*.so*")
    (tmp_path / own.name).write_bytes(own.read_bytes())
    code, document = verify("--only", "libraries.loaded", LD_LIBRARY_PATH=str(tmp_path))
    assert code == 2
    assert f"libgomp from {tmp_path / own.name}" in reason_of(document, "libraries.loaded")


def test_a_torch_that_aborts_during_its_import_gives_a_document(verify: Any, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import os; os.write(2, b'terminate called after throwing\\n'); os.abort()")
    code, document = verify("--level", "quick", PYTHONPATH=str(tmp_path))
    assert code == 3
    record, *others = document["checks"]
    assert record["id"] == "frame.run"
    assert "SIGABRT" in record["reason"]
    assert {(other["status"], other["reason"]) for other in others} == {("skip", "needs frame.run")}
    assert "terminate called after throwing" in record["evidence"]["output"]


def test_every_check_declares_a_fault() -> None:
    assert [check.id for check in all_checks() if not check.faults] == []


def test_the_comparison_of_all_devices_is_a_separate_record_without_busy_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"cuda:0": 100.0, "cuda:1": 80.0, "cuda:2": 10.0}

    def measure(context: CheckContext) -> CheckResult:
        return CheckResult(
            "ok", "recorded", (Figure("memory", speeds[str(context.device)], "GB/s"),), {"name": "one GPU"}
        )

    def busy(context: CheckContext) -> CheckResult | None:
        return CheckResult("skip", "other processes use 90%") if context.device == "cuda:2" else None

    check = Check(
        "speed.memory", "Proves nothing.", measure, each_device=True, exclusive=True, aggregate=compare_speeds
    )
    monkeypatch.setattr(devices, "list_devices", lambda _: (tuple(speeds), None))
    monkeypatch.setattr(devices, "skip_if_busy", busy)
    records = run([check], CheckContext())["checks"]
    assert {record["device"]: (record["status"], record["reason"]) for record in records} == {
        None: ("warn", "cuda:1 is 20% behind the best in memory"),
        "cuda:0": ("ok", "recorded"),
        "cuda:1": ("ok", "recorded"),
        "cuda:2": ("skip", "other processes use 90%"),
    }


def test_exclusive_checks_run_when_no_other_check_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each check leaves a mark while it runs; an exclusive one finds no mark of another."""

    def watch(context: CheckContext) -> CheckResult:
        mark = tmp_path / str(context.device)
        mark.touch()
        time.sleep(0.1)
        others = [path.name for path in tmp_path.iterdir() if path != mark]
        mark.unlink()
        return CheckResult("fail" if others else "ok", "saw nobody" if not others else f"saw {others}")

    check = Check("speed.memory", "Proves nothing.", watch, each_device=True, exclusive=True)
    monkeypatch.setattr(devices, "list_devices", lambda _: (("cuda:0", "cuda:1", "cuda:2"), None))
    monkeypatch.setattr(devices, "skip_if_busy", lambda _: None)
    assert [record["reason"] for record in run([check], CheckContext())["checks"]] == ["saw nobody"] * 3


def test_beside_a_service_no_gpu_is_filled_by_checks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each check leaves a mark of its GPU while it runs, and says how many there were; without a service it waits for more."""
    enough = tmp_path / "enough"

    def watch(context: CheckContext) -> CheckResult:
        mark = tmp_path / f"{context.device}-{os.getpid()}"
        mark.touch()
        until = time.monotonic() + (0.2 if context.service and context.service.main_pid else 30)
        here = 0
        while here <= execution.BESIDE_SERVICE and not enough.exists() and time.monotonic() < until:
            time.sleep(0.02)
            here = len([*tmp_path.glob(f"{context.device}-*")])
        if here > execution.BESIDE_SERVICE:
            enough.touch()
        mark.unlink()
        return CheckResult("ok", str(here))

    chosen = [Check(check.id, "Proves nothing.", watch, each_device=True) for check in all_checks()[:8]]
    monkeypatch.setattr(devices, "list_devices", lambda _: (("cuda:0", "cuda:1"), None))
    monkeypatch.setattr(execution, "usable_cores", lambda: 16)
    counted = {}
    for main_pid in (1, None):
        context = CheckContext(service=Service(tmp_path, {}, main_pid))
        counted[main_pid] = max(int(record["reason"]) for record in run(chosen, context)["checks"])
    assert counted[1] <= execution.BESIDE_SERVICE < counted[None]


@pytest.mark.parametrize(("serving", "found"), [((), (0, 1, 2, 3, 4)), ((1, 3), (1, 3)), ((7,), (0, 1, 2, 3, 4))])
def test_cards_that_do_not_serve_are_not_compared_with_the_stack(
    monkeypatch: pytest.MonkeyPatch, serving: tuple[int, ...], found: tuple[int, ...]
) -> None:
    """Four H100 and a T4: the T4 is not planned to serve, so its missing kernels are no fault."""
    monkeypatch.setattr(torch_view, "built_for_gpus", lambda: True)
    monkeypatch.setattr(torch_view, "gpu_count", lambda: 5)
    context = CheckContext(expect={"stack": {"gpus": serving, "torch": {"variant": "cu130"}}})
    assert devices.list_devices(context) == (tuple(f"cuda:{index}" for index in found), None)


@pytest.mark.parametrize(
    ("free", "shared", "status"),
    [(79, False, None), (73, False, None), (70, False, "skip"), (4, False, "skip"), (4, True, None)],
)
def test_a_device_with_much_memory_used_by_others_is_busy(
    monkeypatch: pytest.MonkeyPatch, free: int, shared: bool, status: str | None
) -> None:
    """One that shares the processor's memory counts page cache as taken."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free << 30, 80 << 30))
    properties = SimpleNamespace(is_integrated=int(shared))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(devices, "free_memory", lambda: 79 << 30)
    outcome = devices.skip_if_busy(CheckContext(device="cuda:0"))
    assert (outcome and outcome.status) == status
    assert devices.skip_if_busy(CheckContext(device="cpu")) is None
