"""Causes that are easily confused, and logs without a failure."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.doctor.catalog import load_causes
from verify.doctor.engine import Diagnosis, diagnose_texts
from verify.doctor.failure_detection import is_quotation
from verify.doctor.render import evidence_lines

TRACEBACK = (
    'Traceback (most recent call last):\n  File "/opt/env/lib/python3.12/site-packages/vllm/platforms/cuda.py"\n'
)
LIBRARY = "/opt/env/lib/python3.12/site-packages"


def named(text: str, facts: dict[str, Any] | None = None) -> list[str]:
    return [finding.cause.id for finding in diagnose_texts({"log": text}, facts).findings]


@pytest.mark.parametrize(
    ("symbol", "library", "cause"),
    [
        (
            "_ZN3c1010TensorImpl17set_autograd_metaEv",
            "flash_attn_2_cuda.cpython-312-x86_64-linux-gnu.so",
            "abi-mismatch",
        ),
        ("_ZN2at4_ops5zeros4callEv", "vllm/_C.abi3.so", "abi-mismatch"),
        ("_ZN5torch7Library4_defEv", "vllm/_moe_C.abi3.so", "abi-mismatch"),
        ("ncclCommWindowRegister", "torch/lib/libtorch_cuda.so", "nccl-duplicate"),
        ("ncclMemAlloc", "torch/lib/libtorch_cuda.so", "nccl-duplicate"),
        (
            "__nvJitLinkCreate_12_8, version libnvJitLink.so.12",
            "nvidia/cusparse/lib/libcusparse.so.12",
            "lib-path-conflict",
        ),
        ("cudnnGetLibConfig, version libcudnn_graph.so.9", "nvidia/cudnn/lib/libcudnn_cnn.so.9", "lib-path-conflict"),
        ("cuTensorMapEncodeTiled", "vllm/_C.abi3.so", "driver-too-old"),
    ],
)
def test_undefined_symbol_has_four_causes(symbol: str, library: str, cause: str) -> None:
    assert named(f"{TRACEBACK}ImportError: {LIBRARY}/{library}: undefined symbol: {symbol}")[:1] == [cause]


def test_a_fabric_manager_without_switches_is_no_cause() -> None:
    text = "nv-fabricmanager[812]: fabric manager: request to query NVSwitch device information from NVSwitch driver failed with error: WARNING Nothing to do [NV_WARN_NOTHING_TO_DO]"
    broken = "ImportError: libcudart.so.13: cannot open shared object file: No such file or directory"
    assert named(text)[:1] == ["fabric-manager-not-needed"]
    assert named(f"{text}\n{broken}")[:1] == ["wheel-cuda-mismatch"]


@pytest.mark.parametrize("text", ["Killed", "container exited with code 137", "exit status 137", "signal 9 received"])
def test_signal_9_alone_has_no_finding(text: str) -> None:
    assert named(f"INFO 11-20 [loader.py:40] loading weights\n{text}\n") == []


NO_IMAGE = "RuntimeError: CUDA error: no kernel image is available for execution on the device"


def test_memory_of_a_ray_node_is_not_the_gpus() -> None:
    text = "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory."
    assert named(text) == ["ray-memory-monitor"]


def test_no_kernel_image_has_three_outcomes() -> None:
    newer = (
        "NVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the current PyTorch installation."
    )
    older = "Found GPU0 Tesla P40 which is of cuda capability 6.1. Minimum and Maximum cuda capability supported by this version of PyTorch is (7.5) - (12.0)"
    fork = "RuntimeError: FlashAttention only supports Ampere GPUs or newer."
    assert named(f"{newer}\n{NO_IMAGE}")[:1] == ["arch-not-in-build"]
    assert named(f"{older}\n{NO_IMAGE}")[:1] == ["gpu-too-old"]
    assert named(f"{fork}\n{NO_IMAGE}")[:1] == ["gpu-unsupported-fa2"]


@pytest.mark.parametrize("said", ["CUDA error: an illegal memory access was encountered", "HIP error: launch failure"])
def test_a_gpu_that_fails_in_a_compiled_graph_has_no_stale_cache(said: str) -> None:
    trace = (
        f'{TRACEBACK}  File "{LIBRARY}/vllm/compilation/decorators.py", line 512, in __call__\n'
        "    return self.aot_compiled_fn(self, *args, **kwargs)\n"
        '  File "/srv/cache/vllm/torch_compile_cache/3c9d/rank_0_0/inductor_cache/ab/cab7.py", line 481, in call\n'
    )
    findings = diagnose_texts({"log": f"{trace}torch.AcceleratorError: {said}\n"}).findings
    stale = {finding.cause.id: finding.label for finding in findings}.get("compile-cache-stale")
    assert stale in ("possible", None)
    assert named(f"{trace}AssertionError: expected size 3==4, stride 4==4 at dim=0\n")[:1] == ["compile-cache-stale"]


@pytest.mark.parametrize(
    "text",
    [
        "        Drain and Reset Recommended       : Yes",
        "NVRM: Xid (PCI:0009:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)",
    ],
)
def test_a_driver_that_asks_for_a_reset_has_lost_a_gpu(text: str) -> None:
    assert named(f"{text}\nRuntimeError: lost") == ["gpu-off-bus"]


def test_consequences_do_not_hide_the_first_cause() -> None:
    end = (
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"
    )
    first = "ValueError: Free memory on device (3.21/79.19 GiB) on startup is less than desired GPU memory utilization (0.9, 71.27 GiB)."
    assert named(f"(EngineCore pid=7) {first}\n(APIServer pid=1) {end}\n")[:1] == ["gpu-memory-busy"]
    assert named(end) == []


@pytest.mark.parametrize("prefix", ["", "(EngineCore_DP0 pid=411) ERROR 11-20 08:02:10 [core.py:718] ", "[rank0]: "])
@pytest.mark.parametrize(
    ("runtime", "variable"), [("CUDA", "CUDA_LAUNCH_BLOCKING=1"), ("HIP", "AMD_SERIALIZE_KERNEL=3")]
)
def test_a_kernel_that_failed_names_no_cause(prefix: str, runtime: str, variable: str) -> None:
    lines = (
        f"torch.AcceleratorError: {runtime} error: an illegal memory access was encountered",
        f"{runtime} kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.",
        f"For debugging consider passing {variable}",
        f"Compile with `TORCH_USE_{runtime}_DSA` to enable device-side assertions.",
    )
    diagnosis = diagnose_texts({"log": "".join(f"{prefix}{line}\n" for line in lines)})
    assert diagnosis.findings == ()
    assert "A kernel failed" in diagnosis.look_next[0]
    assert all(is_quotation(prefix + line) for line in lines[1:])


def test_an_event_of_a_gpu_is_explained_as_by_the_checks() -> None:
    unknown = "NVRM: Xid (PCI:0000:1b:00): 62, pid=12, name=python, 61fb 5ed0 0"
    diagnosis = diagnose_texts({"log": unknown})
    assert diagnosis.findings == ()
    assert "the GPU's own controller stopped. What to do: stop what uses the GPU and reset it" in diagnosis.look_next[0]
    contained = diagnose_texts({"log": "NVRM: Xid (PCI:0000:1b:00): 94, pid=12, name=python, Contained: SM (0x1)."})
    ((_, why),) = evidence_lines(contained.findings[0])
    assert why.startswith("Xid 94 (CONTAINED_ERROR): an uncorrected error of the memory, kept to the process")


HEALTHY = {
    "start": (
        "INFO 11-20 08:01:40 [api_server.py:1896] vLLM API server version 0.32.0\n"
        "(EngineCore pid=411) INFO 11-20 08:01:52 [cuda.py:366] Using FLASH_ATTN attention backend out of potential backends: ['FLASH_ATTN', 'FLASHINFER', 'TRITON_ATTN']\n"
        "(EngineCore pid=411) INFO 11-20 08:02:10 [gpu_worker.py:298] Available KV cache memory: 61.20 GiB\n"
        "(EngineCore pid=411) INFO 11-20 08:02:10 [kv_cache_utils.py:1087] GPU KV cache size: 501,344 tokens\n"
        "(EngineCore pid=411) INFO 11-20 08:02:31 [gpu_model_runner.py:3480] Graph capturing finished in 9 secs, took 0.62 GiB\n"
        "INFO:     Application startup complete.\n"
        'INFO:     10.0.0.9:51220 - "POST /v1/completions HTTP/1.1" 200 OK\n'
    ),
    "nccl": (
        "node7:2211:2211 [0] NCCL INFO NCCL version 2.28.9+cuda13.0\n"
        "node7:2211:2290 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB eth0:10.1.0.7<0>\n"
        "node7:2211:2290 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/read\n"
        "node7:2211:2290 [0] NCCL INFO Connected all rings, use ring PXN 0 GDR 1\n"
        "Device: NVIDIA B200, driver 580.95.05\n"
    ),
    "pip": (
        "Collecting torch==2.13.0\n  Downloading torch-2.13.0-cp312-cp312-manylinux_2_28_x86_64.whl (899.7 MB)\n"
        "Installing collected packages: numpy, torch\nSuccessfully installed numpy-2.3.4 torch-2.13.0+cu130\n"
    ),
    "dmesg": (
        "[    4.10] nvidia: module license 'NVIDIA' taints kernel.\n"
        "[    4.21] nvidia 0000:17:00.0: enabling device (0000 -> 0002)\n"
        "[    4.44] NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n"
        "[    5.02] nvidia-uvm: Loaded the UVM driver, major device number 510.\n"
    ),
    "smi": (
        "| NVIDIA-SMI 580.95.05    Driver Version: 580.95.05    CUDA Version: 13.0 |\n"
        "|   0  NVIDIA H200        On   | 00000000:17:00.0 Off |                    0 |\n"
        "| N/A   31C    P0   76W / 700W |      0MiB / 143771MiB |      0%      Default |\n"
        "|  No running processes found |\n"
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_log_has_no_finding(name: str) -> None:
    diagnosis = diagnose_texts({name: HEALTHY[name]})
    assert not [(found.cause.id, found.confidence) for found in diagnosis.findings]
    assert diagnosis.look_next


def first(diagnosis: Diagnosis) -> str:
    return diagnosis.findings[0].cause.id


SAMPLES = [(cause.id, sample) for cause in load_causes() for sample in cause.samples if sample.is_cause]
QUIET = [*HEALTHY["start"].splitlines()[:2], HEALTHY["start"].splitlines()[-1], *HEALTHY["pip"].splitlines()]
"""Lines that are compatible with every failure: no loaded weights, card or driver."""


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.sampled_from(QUIET), max_size=40),
    st.lists(st.sampled_from(QUIET[:-1]), max_size=40),  # after its success a complaint of an installer is past
)
def test_lines_around_it_do_not_change_the_first_cause(sample: Any, before: list[str], after: list[str]) -> None:
    cause, log = sample
    text = "\n".join([*before, log.text, *after])
    assert first(diagnose_texts({"log": text})) == cause


@pytest.mark.parametrize("cause", dict(SAMPLES))
def test_a_healthy_start_around_it_does_not_change_the_first_cause(cause: str) -> None:
    for log in (log for name, log in SAMPLES if name == cause):
        assert first(diagnose_texts({"log": "\n".join([*QUIET, log.text, *QUIET])})) == cause, log.text


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SAMPLES))
def test_colours_and_line_ends_do_not_change_anything(sample: Any) -> None:
    _, log = sample
    plain = diagnose_texts({"log": log.text})
    dressed = "\r\n".join(f"\x1b[31m{line}\x1b[0m" for line in log.text.splitlines())
    dressed_too = diagnose_texts({"log": dressed})
    named = [[(found.cause.id, found.confidence) for found in one.findings] for one in (plain, dressed_too)]
    assert named[0] == named[1]


def test_the_readme_has_no_named_cause() -> None:
    readme = Path(__file__).resolve().parents[2] / "README.md"
    assert named(readme.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "there are fewer than two GPUs (nccl)",
        "NCCL unchanged, the same machine exchanged only its linux-headers",
        "custom all reduce: interchangeable with NCCL's",
    ],
)
def test_words_that_contain_hang_have_no_finding(line: str) -> None:
    assert named(line) == []
