"""The summary that a run leaves on a host: one `cat` answers what the host has."""

import re
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.facts import Nvidia, NvidiaGpu
from provision.core.models.stack import FlashAttnKey, FlashAttnPackage, FlashAttnPlan, TorchBuild, VllmBuild
from provision.pipeline import host_summary
from provision.report import summarise
from tests.report.sample import GPU_STACK, Folder, check, facts, host, ran, result, served

RUN = "20261120T101500Z"
KEY = FlashAttnKey(
    cuda_major=12, rocm=None, torch="2.7", cxx11_abi=True, python="3.12", machine="x86_64", glibc="2.39",
    capabilities=("8.9",),
)  # fmt: skip
FIRST_USERS = GPU_STACK.model_copy(
    update={
        "vllm": VllmBuild(version="0.9.1", variant="cu128"),
        "torch": TorchBuild(version="2.7.0", variant="cu126"),
        "driver": GPU_STACK.driver and GPU_STACK.driver.model_copy(update={"version": "560.35.03"}),
        "fabric_manager": None,
        "attention": GPU_STACK.attention.model_copy(update={"generation": 2}),
        "flash_attn": FlashAttnPlan(
            provider="bundled",
            version="2",
            package=FlashAttnPackage(version="2.8.0.post2", source="wheel", file="flash_attn.whl", key=KEY),
        ),
    }
)
"""Two RTX 4070 Ti SUPER with a driver for CUDA 12.6."""


def speed(device: str, milliseconds: float, dtype: str = "float16") -> dict[str, Any]:
    rows = [
        {"point": [2, 512, 12, 64], "flash": milliseconds, "standard": 0.2},
        {"point": [32, 512, 12, 64], "flash": 0.9, "standard": 4.0},
    ]
    return check("speed.attention", device=device, evidence={"milliseconds": rows, "dtype": dtype})


def cards(tmp_path: Path, *names: str, records: list[dict[str, Any]] | None = None) -> Folder:
    folder = Folder(tmp_path / RUN, [host(name) for name in names])
    folder.planned(names, FIRST_USERS)
    folder.staged(names, FIRST_USERS)
    card = NvidiaGpu(
        index=0, name="NVIDIA GeForce RTX 4070 Ti SUPER", memory_total=17171480576, compute_capability="8.9"
    )
    nvidia = Nvidia(driver_version="560.35.03", cuda_version="12.6", gpus=(card, card.model_copy(update={"index": 1})))
    for name in names:
        folder.green(name, gpus=2, records=records or [speed("cuda:0", 0.041), speed("cuda:1", 0.0424)])
        folder.run.write(f"facts/{name}.json", facts(name).model_copy(update={"nvidia": nvidia}))
        folder.run.write(f"serve/{name}.json", served("FLASH_ATTN", generation=2))
    return folder


def text_of(folder: Folder, name: str, **update: Any) -> str:
    summary = summarise(folder.run)
    entry = next(entry for entry in summary.hosts if entry.name == name)
    return host_summary.render(summary, entry.model_copy(update=update))


@pytest.mark.parametrize(
    "line",
    [
        r"2 x NVIDIA GeForce RTX 4070 Ti SUPER, 16\.0 GiB, sm 8\.9, driver 560\.35\.03 \(CUDA 12\.6\)",
        r"CUDA +12\.6, of torch's build",
        r"flash-attn package +2\.8\.0\.post2, wheel",
        r"attention, b2 s512 h12 d64: 0\.041 ms on cuda:0, 0\.0424 ms on cuda:1 \(torch's flash attention, float16\)",
    ],
    ids=["gpus", "cuda", "package", "fixed-point"],
)
def test_one_file_answers_what_a_host_with_cards_has(tmp_path: Path, line: str) -> None:
    assert re.search(rf"(?m)^ *{line}", re.sub(r"\n {4,}", " ", text_of(cards(tmp_path, "gpu-1"), "gpu-1")))


def test_one_file_has_the_fixed_point_of_a_host_without_cards(tmp_path: Path) -> None:
    folder = ran(tmp_path / RUN, records=[speed("cpu", 21.3, "float32")])
    words = "attention, b2 s512 h12 d64: 21.3 ms on cpu (torch's flash attention, float32)"
    assert words in text_of(folder, "a")


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([check("kernels.gemm")], "not measured: `verify` measures it"),
        ([check("speed.attention", "skip", reason="needs kernels.vector_add")], "not measured, see Checks"),
        (
            [check("speed.attention", "skip", reason="firstlight-vllm.service is running")],
            "not measured: firstlight-vllm",
        ),
        (
            [check("speed.attention", "error", evidence={"output": "x"}, reason="cannot tell: hung")],
            "not measured: cannot",
        ),
    ],
)
def test_a_fixed_point_that_was_not_measured_has_a_reason(
    tmp_path: Path, records: list[dict[str, Any]], words: str
) -> None:
    assert f"attention, b2 s512 h12 d64: {words}" in text_of(cards(tmp_path, "gpu-1", records=records), "gpu-1")


def test_of_a_fleet_each_host_has_its_own_part_and_the_controller_the_range(tmp_path: Path) -> None:
    folder = cards(tmp_path, "gpu-1", "gpu-2")
    folder.results(result("gpu-2", "serve", "failed", text="the service ended"))
    own = text_of(folder, "gpu-1")
    assert own.startswith("GREEN: 1 host serving")
    assert "gpu-2" not in own
    assert text_of(folder, "gpu-2").startswith("RED: 1 host failed (gpu-2)")
    folder.results(result("gpu-2", "serve"))
    assert "attention, b2 s512 h12 d64: 0.041 to 0.0424 ms on 4 devices" in folder.text()
