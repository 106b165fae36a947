"""The tool as a person runs it, on this machine's CPU: all green as it stands, and every injected fault caught and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from verify.registry import all_checks
from verify.views import pci

CONTRACT = {"id", "family", "status", "host", "device", "reason", "figures", "evidence", "remedy", "seconds"}
FAULTS = [(check, fault) for check in all_checks() for fault in check.faults]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A lock of what is installed here, a Stack that names it, and a package that answers as vLLM does (it is not here)."""
    from verify.distributions import installed

    folder = tmp_path_factory.mktemp("stack")
    lock, stack = folder / "lock.txt", folder / "expect.json"
    lock.write_text("".join(f"{name}=={found[0].version}\n" for name, found in installed().items()))
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
    without = ("--skip", "devices.gpus") if pci.gpus("nvidia") or pci.gpus("amd") else ()
    written = tmp_path / "verify" / "last.json"
    told = ("--lock", files["lock"], "--expect", files["expect"], "--write", str(written), *without)
    answers = run_many([("--level", level, *told) for level in ("quick", "full")])
    for code, document in answers:
        bad = [check for check in document["checks"] if check["status"] not in ("ok", "skip")]
        assert (code, bad) == (0, [])
        assert all(set(check) == CONTRACT for check in document["checks"])
    document = answers[-1][1]
    assert json.loads(written.read_text()) == document
    skipped = {check["id"]: check["reason"] for check in document["checks"] if check["status"] == "skip"}
    assert {reason for check, reason in skipped.items() if check.startswith("attention.")} == {
        "it computes on NVIDIA GPUs",
        "it computes on NVIDIA GPUs and AMD GPUs",
        "no `vllm` in this environment",
    }
    assert {check: reason for check, reason in skipped.items() if not check.startswith("attention.")} == {
        "engine.flash_attn": "no flash-attn package is installed, and none is planned",
        "engine.vllm": "the Stack has no vLLM",
    }


@pytest.fixture(scope="session")
def injected(files: dict[str, str], run_many: Any) -> dict[tuple[str, str], Any]:
    """What every check says of every fault that it must notice: one run a fault, of the checks that know it."""
    faults = list(dict.fromkeys(fault for _, fault in FAULTS))
    runs = [
        # `--only` reaches the checks of every level; on the lowest one the fewest problems are computed
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


def test_a_check_that_dies_or_hangs_ends_itself_and_not_the_run(run_many: Any) -> None:
    crash, hang = run_many([
        ("--only", "kernels", "--inject", "crash@kernels.gemm"),
        ("--only", "kernels.gemm", "--inject", "hang", "--deadline", "1"),
    ])  # fmt: skip
    statuses = {check["id"]: check["status"] for check in crash[1]["checks"]}
    assert (crash[0], statuses) == (3, {"kernels.gemm": "error", "kernels.vector_add": "ok"})
    assert "SIGSEGV" in crash[1]["checks"][0]["reason"]
    assert hang[0] == 3
    assert "did not end within 1 s" in hang[1]["checks"][0]["reason"]


def test_every_check_can_crash_without_taking_another_along(run_many: Any, files: dict[str, str]) -> None:
    ((code, document),) = run_many(
        [("--inject", "crash", "--level", "full", "--lock", files["lock"])], PYTHONPATH=files["vllm"]
    )
    assert code == 3
    assert {check["status"] for check in document["checks"]} == {"error"}
    assert [check["id"] for check in document["checks"]] == [check.id for check in all_checks()]


def test_an_injected_fault_that_meets_no_check_is_an_error(run_many: Any) -> None:
    ((code, document),) = run_many([("--only", "libraries.lock", "--inject", "wrong-lock")])
    assert code == 3
    assert document["checks"][0]["reason"] == "the injected fault `wrong-lock` met no check that runs here"


def test_a_vllm_that_does_not_import_is_a_failure_with_its_own_words(verify: Any, tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text(
        "raise ImportError('_C.abi3.so: undefined symbol: _ZN5torch3jit1xE')"
    )
    code, document = verify("--only", "engine.vllm", PYTHONPATH=str(tmp_path))
    assert code == 2
    assert "_C.abi3.so: undefined symbol: _ZN5torch3jit1xE" in document["checks"][0]["reason"]


def test_an_extension_that_does_not_load_is_a_failure_that_names_it(verify: Any, tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise AssertionError('not to be imported')")
    for name in ("_C.abi3.so", "_C_AVX512.abi3.so", "_C_AVX2.abi3.so"):
        (tmp_path / "vllm" / name).write_bytes(b"no library")
    code, document = verify("--only", "libraries.loaded", PYTHONPATH=str(tmp_path))
    assert code == 2
    assert "vLLM's kernels do not load" in document["checks"][0]["reason"]
    assert str(tmp_path / "vllm") in document["checks"][0]["reason"]


def test_a_library_of_the_search_path_that_wins_over_the_environments_is_named(verify: Any, tmp_path: Path) -> None:
    """The loader really takes it: torch's own libraries carry a RUNPATH, which LD_LIBRARY_PATH goes before."""
    import torch

    (own,) = (Path(torch.__file__).parent / "lib").glob("libgomp*.so*")
    (tmp_path / own.name).write_bytes(own.read_bytes())
    code, document = verify("--only", "libraries.loaded", LD_LIBRARY_PATH=str(tmp_path))
    assert code == 2
    assert f"libgomp from {tmp_path / own.name}" in document["checks"][0]["reason"]


def test_narrowed_instructions_and_threads_are_warnings(verify: Any) -> None:
    code, document = verify("--only", "devices.cpu", ATEN_CPU_CAPABILITY="default")
    if document["checks"][0]["evidence"]["CPU"]:
        assert code == 1
        assert "computes with DEFAULT on a CPU that has" in document["checks"][0]["reason"]
    else:
        assert code == 0


def test_a_torch_that_aborts_while_it_is_imported_gives_a_document(verify: Any, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import os; os.write(2, b'terminate called after throwing\\n'); os.abort()")
    code, document = verify("--level", "quick", PYTHONPATH=str(tmp_path))
    assert code == 3
    (record,) = document["checks"]
    assert record["id"] == "frame.run"
    assert "SIGABRT" in record["reason"]
    assert "terminate called after throwing" in record["evidence"]["output"]


def test_every_check_declares_a_fault() -> None:
    assert [check.id for check in all_checks() if not check.faults] == []
