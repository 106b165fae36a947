"""The checks on a simulated card: their calls are valid for torch, on one device, and in the order that torch requires."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.verify.in_torch.pretend_card import Profile, pretend
from tests.verify.nvml_stand_in import library
from verify import inputs
from verify.attention import speed as attention
from verify.attention.cases import CASES
from verify.attention.providers.packed import CUDNN, FLASH
from verify.checks.kernels import calls as determinism
from verify.checks.kernels import memory_pattern
from verify.checks.kernels import products as gemm_right
from verify.checks.memory import attention as memory_attention
from verify.checks.speed import throughput
from verify.host import cpu as host_cpu
from verify.host.load import watch
from verify.inputs import windows
from verify.operators.speed import speed_floor
from verify.records import CheckContext, CheckResult
from verify.runner.registry import all_checks
from verify.tables import table

ROOT = Path(__file__).resolve().parents[3]
CHECKS = {check.id: check for check in all_checks()}
ON_CARD = CheckContext(level="standard", device="cuda:0", devices=("cuda:0",))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small problems instead of the large ones of a card."""
    for module, name, size in (
        (throughput, "GPU_SIZE", 64),
        (throughput, "GPU_BYTES", 1 << 16),
        (throughput, "COPIED_BYTES", 1 << 16),
        (memory_pattern, "WORDS", 1 << 10),
        (gemm_right, "GPU_LARGE", 256),
        (determinism, "GPU_LARGE", 256),
        (memory_attention, "LENGTHS", (128, 256)),
    ):
        monkeypatch.setattr(module, name, size)
    monkeypatch.setitem(table("speed"), "points", [[1, 64, 2, 64]])
    monkeypatch.setitem(table("speed")["sweep"], "lengths", [32])
    monkeypatch.setitem(table("speed")["sweep"]["card"], "heads", 2)


def on_card(
    check: str, monkeypatch: pytest.MonkeyPatch, *, memory: int = 24 << 30, level: str = "standard"
) -> CheckResult:
    with pretend(monkeypatch, memory=memory):
        return CHECKS[check].run(CheckContext(level=level, device="cuda:0", devices=("cuda:0",)))  # type: ignore[arg-type]


ON_CARDS = [
    *(
        f"kernels.{name}"
        for name in ("vector_add", "gemm", "gemm_batched", "gemm_8bit", "determinism", "memory_pattern", "graph")
    ),
    *(check for check in CHECKS if re.fullmatch(r"operators\.(?!vllm)\w+", check)),
]


@pytest.mark.parametrize("check", ON_CARDS)
def test_kernels_and_operators_are_called_correctly_on_a_card(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = on_card(check, monkeypatch, memory=1 << 17 if check == "kernels.memory_pattern" else 24 << 30)
    assert outcome.status == "ok", outcome.reason
    assert outcome.evidence["name"] == "NVIDIA H200"


class Tile(TorchDispatchMode):  # type: ignore[misc]
    """Products of large matrices are wrong in one place, as on a card with one faulty multiprocessor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name == "aten::mm" and min(result.shape) >= 256:
            result[200, 200] += 8
        return result


@pytest.mark.parametrize("check", ["gemm", "determinism"])
def test_a_multiprocessor_that_small_products_never_reach_is_noticed(
    check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is noticed by the error in one place of a large product, and by bits that differ from those of equal cards; on the CPU."""
    right = CHECKS[f"kernels.{check}"].run(CheckContext(level="standard", device="cpu"))
    with Tile():
        outcome = CHECKS[f"kernels.{check}"].run(CheckContext(level="standard", device="cpu"))
    if check == "gemm":
        assert (right.status, outcome.status) == ("ok", "fail")
        assert "rows of 1031x65x1049, bfloat16: an element is wrong" in outcome.reason
    else:
        both = (right.evidence["result_hashes"], outcome.evidence["result_hashes"])
        assert [kernel for kernel in both[0] if both[0][kernel] != both[1][kernel]] == ["large product"]


def found_by(outcome: CheckResult) -> dict[str, float | None]:
    """The wrong words of each pattern that found some."""
    return {figure.name.removesuffix(", wrong words"): figure.value for figure in outcome.figures[1:] if figure.value}


@pytest.mark.parametrize(
    ("fault", "patterns"),
    [
        ("wrong-result", {"address", "moving inversions", "random", "retention", "walking bits"}),
        ("aliased-address", {"address", "moving inversions", "random", "retention"}),
        ("coupled-cells", {"moving inversions"}),
        ("decaying-bit", {"retention"}),
    ],
)
def test_each_pattern_finds_its_faults_of_memory(
    fault: str, patterns: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_pattern, "CPU_WORDS", 1 << 10)
    outcome = CHECKS["kernels.memory_pattern"].run(CheckContext(device="cpu", faults=frozenset({fault})))
    assert (outcome.status, set(found_by(outcome))) == ("fail", patterns)


def test_walking_bits_end_after_the_seconds_of_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_pattern, "CPU_WORDS", 1 << 10)
    monkeypatch.setitem(table("memory")["pattern"]["full"], "seconds", 0.0)
    outcome = CHECKS["kernels.memory_pattern"].run(CheckContext(level="full", device="cpu"))
    assert (outcome.status, outcome.evidence["walking bits"]) == ("ok", "2 of 128 turns")


def test_memory_is_read_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell loses its bit after a while; a value that is read immediately is correct."""
    chunks: list[torch.Tensor] = []
    empty = torch.empty

    def made(*arguments: Any, **options: Any) -> torch.Tensor:
        chunks.append(empty(*arguments, **options))
        return chunks[-1]

    def decay(seconds: float) -> None:
        assert seconds == table("memory")["pattern"]["full"]["waits"]
        chunks[0].numbers[99] ^= 4

    monkeypatch.setattr(torch, "empty", made)
    monkeypatch.setattr(time, "sleep", decay)
    outcome = on_card("kernels.memory_pattern", monkeypatch, memory=1 << 17, level="full")
    assert (outcome.status, found_by(outcome)) == ("fail", {"retention": 2})


@pytest.mark.parametrize(
    ("path", "kernel"),
    [
        ("flash", "pytorch_flash::flash_fwd_kernel"),
        ("cudnn", "cudnn_generated_fort_native_sdpa"),
        ("efficient", "fmha_cutlassF_bf16"),
        ("math", "aten::_scaled_dot_product_attention_math"),
    ],
)
def test_each_path_of_torchs_attention_is_called_correctly_on_a_card_and_proven(
    path: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = on_card(f"attention.sdpa_{path}", monkeypatch)
    assert (outcome.status, kernel in str(outcome.evidence["ran"])) == ("ok", True), outcome.reason


def test_cudnn_is_not_called_for_a_single_key(monkeypatch: pytest.MonkeyPatch) -> None:
    exclusive = next(case for case in CASES if case.name == "one token alone")
    assert CUDNN.refuses(exclusive, "bfloat16", "cuda") == "a single key"


def test_a_path_that_supports_nothing_on_this_card_is_no_wrong_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretend(monkeypatch) as card:
        card.refused.add("flash")
        outcome = CHECKS["attention.sdpa_flash"].run(ON_CARD)
    assert (outcome.status, outcome.reason) == ("error", "it supports none of the problems")
    assert outcome.evidence["does not support"]["causal"] == "torch has no kernel for it on this device, in float16"


@pytest.mark.parametrize(
    "check", ["attention.sdpa_flash", "attention.sdpa_efficient", "memory.attention", "speed.attention"]
)
def test_an_amd_gpu_that_torch_has_no_flash_kernels_for_is_skipped(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Strix Halo, which serves with kernels in Triton."""
    with pretend(monkeypatch) as card:
        monkeypatch.setattr(torch.version, "hip", "7.2.53211")
        monkeypatch.setattr(torch.cuda.get_device_properties("cuda:0"), "gcnArchName", "gfx1151", raising=False)
        assert FLASH.missing("cuda:0") is None
        card.refused |= {"flash", "efficient"}
        outcome = CHECKS[check].run(ON_CARD)
    assert (outcome.status, outcome.reason.endswith("attention has no kernel for gfx1151")) == ("skip", True), outcome


def test_a_profiler_that_sees_no_kernel_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Profile, "blind", True)
    outcome = on_card("attention.sdpa_flash", monkeypatch)
    assert (outcome.status, "recorded nothing on this device" in outcome.reason) == ("error", True)


def test_walking_bits_set_and_clear_each_bit_of_each_word_alone() -> None:
    contents = [[word % (1 << 64) for word in words.tolist()] for words in memory_pattern.walking_bits(torch.arange(3))]
    alone = {1 << bit for bit in range(64)}
    for place in range(3):
        words = [content[place] for content in contents]
        assert set(words[::2]) == alone
        assert {word ^ ((1 << 64) - 1) for word in words[1::2]} == alone
    assert all(len(set(content)) == 3 for content in contents), "neighbours differ, so that a wrong address is found"


@pytest.mark.parametrize("bit", [0, 41, 63])
def test_a_bit_that_sticks_only_where_it_is_alone_is_found(bit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both other patterns pass: the cell loses its charge only beside discharged neighbours."""
    sound, alone = torch.Tensor.copy_, (1 << bit) - ((1 << 64) if bit == 63 else 0)

    def weak(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        sound(target, source)
        target[7] = 0 if int(source[7]) == alone else source[7]
        return target

    monkeypatch.setattr(memory_pattern, "CPU_WORDS", 1 << 10)
    monkeypatch.setattr(torch.Tensor, "copy_", weak)
    outcome = CHECKS["kernels.memory_pattern"].run(CheckContext(level="full", device="cpu"))
    assert (outcome.status, found_by(outcome)) == ("fail", {"walking bits": 8})


@pytest.mark.parametrize("check", ["gemm", "memory", "copies"], ids=lambda name: f"speed.{name}")
def test_speeds_of_a_card_are_compared_with_its_floor(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The events of the simulated card are a millisecond apart, which is far too slow for such small problems."""
    outcome = on_card(f"speed.{check}", monkeypatch)
    assert outcome.status == "fail"
    least = {figure.floor for figure in outcome.figures if figure.floor is not None}
    kinds = {"gemm": ("gemm_bfloat16", "gemm_fp8"), "copies": ("copy",)}.get(check, (check,))
    assert least == {speed_floor("NVIDIA H200", kind)[0] for kind in kinds}


def test_a_simulated_card_that_is_too_hot_under_load_fails_by_a_stand_in_for_nvml(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hot = "int nvmlDeviceGetCurrentClocksEventReasons(void *h, unsigned long long *bits) { *bits = 0x40; return 0; }"
    monkeypatch.setattr(throughput, "watch", partial(watch, library=library(tmp_path, more=hot)))
    outcome = on_card("speed.gemm", monkeypatch)
    assert outcome.status == "fail"
    assert "0000:1b:00.0 is slowed down under load: too hot (hardware)" in outcome.reason


@pytest.mark.parametrize(
    ("slower", "status"),
    [(1.0, "ok"), (1.1, "ok"), (1.3, "warn"), (3.0, "fail")],
    ids=["steady", "warm", "hot", "worn"],
)
@pytest.mark.parametrize(
    ("check", "loads"),
    [
        ("speed.gemm", {"bfloat16 products": 30.0, "fp8 products": 10.0}),
        ("speed.copies", {"copies to the device": 5.0, "copies to the host": 5.0}),
    ],
)
def test_a_load_that_ends_slower_than_it_began_is_told(
    check: str, loads: dict[str, float], slower: float, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At level full products in bfloat16 run for 30 s, those in fp8 for 10 s, and copies for 5 s; here their times are given."""
    asked: list[float] = []

    def given(_work: Any, _device: str, *, seconds: float, once_s: float) -> list[float]:
        asked.append(seconds)
        return [once_s] * 10 + [once_s * slower] * 10

    monkeypatch.setattr(throughput, "windows", given)
    monkeypatch.setattr(throughput, "speed_floor", lambda *_: (None, None))
    outcome = on_card(check, monkeypatch, level="full")
    assert (outcome.status, asked) == (status, list(loads.values()))
    for load, seconds in loads.items() if status != "ok" else ():
        assert f"{load} at the end of {seconds:g} s over those at the start" in outcome.reason


def test_windows_cover_a_load_without_a_pause() -> None:
    turns: list[int] = []
    found = windows(turns.append, "cpu", seconds=0.0001, once_s=0.25)
    assert turns == [0, 1, 2, 3] * len(found)
    assert min(found) > 0


def test_copies_are_made_near_the_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The simulated card is at 0000:1b:00.0, on the host's second node; this process may use one CPU of that node."""
    (card := tmp_path / "devices" / "0000:1b:00.0").mkdir(parents=True)
    (card / "numa_node").write_text("1\n")
    for number, cpus in enumerate(("0-3", "4-7")):
        (folder := tmp_path / "nodes" / f"node{number}").mkdir(parents=True)
        (folder / "cpulist").write_text(cpus)
        (folder / "meminfo").write_text(f"Node {number} MemTotal:       1024 kB\n")
    bound: list[Any] = []
    monkeypatch.setattr(host_cpu, "near", partial(host_cpu.near, devices=tmp_path / "devices"))
    monkeypatch.setattr(host_cpu, "nodes", partial(host_cpu.nodes, tmp_path / "nodes"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 6})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cpus: bound.append(cpus))
    pinned = torch.randint

    def pin(*arguments: Any, **options: Any) -> torch.Tensor:
        assert bound == [{6}]
        return pinned(*arguments, **options)

    monkeypatch.setattr(torch, "randint", pin)
    outcome = on_card("speed.copies", monkeypatch)
    assert (outcome.evidence["NUMA node"], outcome.evidence["bound"]) == (1, "1 CPUs")


@pytest.mark.parametrize(("device", "dtype"), [("cuda:0", torch.float16), ("cpu", torch.float32)])
def test_both_paths_compute_in_one_precision(device: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's own paths on the CPU; the standard one converts 16 bits to 32 by default, as on a card."""

    class Seen(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            seen.update(one.dtype for one in tree_leaves(result) if isinstance(one, torch.Tensor))
            return result

    def once(work: Any, device: str, *, budget_s: float) -> float:
        seen.clear()
        with Seen():
            work(0)
        paths["standard" if torch.backends.cuda.math_sdp_enabled() else "flash"] = {
            one for one in seen if one.is_floating_point
        }
        return 1.0

    paths: dict[str, set[torch.dtype]] = {}
    seen: set[torch.dtype] = set()
    monkeypatch.setattr(attention, "timed", once)
    monkeypatch.setattr(attention, "rotation", lambda device, size: 1)
    monkeypatch.setattr(
        attention,
        "random_sets",
        lambda count, *shape, device, **how: inputs.random_sets(count, *shape, device="cpu", **how),
    )
    attention.measure((1, 64, 2, 64), device, backward=False)
    assert paths["standard"] == {dtype}
    assert dtype in paths["flash"]  # its log-sum-exp has 32 bits on every device
    assert not torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()


def test_flash_and_standard_attention_are_timed_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = on_card("speed.attention", monkeypatch)
    assert outcome.status == "ok"
    values = {figure.name: figure.value for figure in outcome.figures}
    assert values["standard over flash (1, 64, 2, 64)"] == 1
    for passes in ("forward", "forward and backward"):
        for mask in ("causal", "not causal"):
            assert values[f"standard over flash, {passes}, {mask}, (1, 32, 2, 64)"] == 1
    assert outcome.evidence["dtype"] == "float16"


def test_standard_attention_that_does_not_fit_keeps_the_speed_of_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(work: Any, device: str, *, budget_s: float) -> float:
        if device != "cpu" and torch.backends.cuda.math_sdp_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inputs.timed(work, device, budget_s=budget_s)

    monkeypatch.setattr(attention, "timed", full)
    outcome = on_card("speed.attention", monkeypatch)
    assert [figure.name for figure in outcome.figures] == ["flash (1, 64, 2, 64)"]
    assert outcome.status == "ok"


def test_a_card_without_kernels_for_flash_attention_is_not_asked_for_its_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4."""
    with pretend(monkeypatch) as card:
        card.refused.add("flash")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
        outcome = CHECKS["speed.attention"].run(ON_CARD)
    assert outcome.status == "skip"
    assert "needs compute capability 8.0, this GPU has 7.5" in outcome.reason


def test_memory_of_attention_is_read_from_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = on_card("memory.attention", monkeypatch)
    found = {128: 1 << 20, 256: 1 << 20}
    assert (outcome.evidence["heads"], outcome.evidence["dtype"]) == (4, "float16")
    assert outcome.evidence["peak bytes by length"] == {"flash": found, "standard": found}


def test_a_tensor_left_on_the_host_is_noticed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proves that the simulated card of these tests can fail."""
    with pretend(monkeypatch), pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        torch.ones(3).to("cuda:0") + torch.ones(3)


def test_float32_is_used_even_if_a_container_allows_less() -> None:
    """In a process of its own, because torch reads the variable only once."""
    program = (
        "import torch; from verify.inputs import require_full_float32\n"
        "before = torch.backends.cuda.matmul.allow_tf32; require_full_float32()\n"
        "print(before, torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision())"
    )
    environment = {**os.environ, "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == ["True", "False", "highest"]
