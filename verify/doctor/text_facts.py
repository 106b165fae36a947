"""Facts extracted from a text: what collect_env, nvidia-smi, pip, nvcc and uname print.

They have the paths of the probe's facts (docs/reference/facts.md). In addition there are `packages.NAME` (the version
of a distribution) and `environment.NAME` (a variable).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from verify.doctor.scanner import Hit
from verify.doctor.search_patterns import SearchPattern

PACKAGES = (
    *("torch", "torchvision", "torchaudio", "vllm", "transformers", "xformers", "triton", "numpy", "ray"),
    *("flash[-_]attn", "flashinfer[-_]python", "nvidia[-_]nccl[-_]cu1[1-9]", "nvidia[-_]cudnn[-_]cu1[1-9]"),
    "nvidia[-_]cuda[-_]runtime(?:[-_]cu1[1-9])?",
)
"""Distributions whose versions causes test, as `pip list` and `pip freeze` name them."""
_VARIABLE = (
    r"(?:^|\bexport |\bset |-e |--env )[\"']?"
    r"((?:NCCL_|CUDA_|VLLM_|HF_|GLOO_|RAY_|ROCR_|HIP_|TORCH_)[A-Z0-9_]+|LD_LIBRARY_PATH|LD_PRELOAD|MAX_JOBS)=([^\s\"']+)"
)
_EXTRACTORS: tuple[tuple[str, str], ...] = (
    ("nvidia.driver_version", r"\bDriver Version\s*: (\d+\.[\d.]+)"),
    ("nvidia.driver_version", r"(?i)nvidia driver version\s*: (\d+\.[\d.]+)"),
    ("nvidia.driver_version", r"<driver_version>(\d+\.[\d.]+)<"),
    ("nvidia.driver_version", r"NVRM version: NVIDIA UNIX .{0,60}?Kernel Module\D{0,30} (\d+\.[\d.]+)"),
    ("nvidia.cuda_version", r"\bCUDA Version\s*: (\d+\.\d+)"),
    ("nvidia.cuda_version", r"<cuda_version>(\d+\.\d+)<"),
    ("nvidia.gpus[].name", r"<product_name>([^<]+)<"),
    ("nvidia.gpus[].name", r"^\s*(?:\S+ )?GPU \d+: (.+?)(?: \(UUID|$)"),
    ("nvidia.gpus[].name", r"^\|\s+\d+\s+((?:NVIDIA|Tesla|GRID|Quadro|GeForce|RTX) ?.*?)\s+(?:On|Off)\b"),
    ("nvidia.gpus[].compute_capability", r"(?i)compute capability:? (\d{1,2}\.\d)\b"),
    ("os.pretty_name", r"^OS\s*: (.*(?:Linux|Ubuntu|Debian|Red Hat|CentOS|Fedora|Alma|openSUSE|SLES).*)$"),
    ("os.pretty_name", r"^PRETTY_NAME=\"?([^\"]+)"),
    ("os.id", r"^ID=\"?(alpine)"),
    ("os.libc_version", r"(?i)\blibc version\s*: glibc-(\d+\.\d+)"),
    ("os.libc_version", r"ldd \(.{0,60}\) (\d+\.\d+)$"),
    ("os.machine", r"\bLinux \S+ .{0,200}\b(x86_64|aarch64)\b"),
    ("os.kernel", r"\bLinux \S+ (\d+\.\d+\.\S+) #"),
    ("wsl", r"(?i)\b\d+\.\d+\.\S*microsoft-standard-(wsl)2"),
    ("pythons[].version", r"^Python version\s*: (\d\.\d+(?:\.\d+)?)"),
    ("cuda_toolkits[].version", r"^CUDA runtime version\s*: (\d+\.[\d.]+)"),
    ("cuda_toolkits[].version", r"Cuda compilation tools, release (\d+\.\d+)"),
    ("amd.rocm_version", r"^ROCM used to build PyTorch\s*: (\d[\w.]*)"),
    ("amd.gpus[].gfx", r"^\s*Name:\s+(gfx[0-9a-f]{3,4})\b"),
    ("packages.torch_cuda", r"^CUDA used to build PyTorch\s*: (\S+)"),
    ("packages.torch", r"PyTorch version\s*: (\d[\w.+]*)"),
    ("packages.vllm", r"(?i)\bvLLM version\s*: v?(\d[\w.+]*)"),
    ("packages.transformers", r"(?i)\btransformers version\s*: (\d[\w.+]*)"),
    *((f"packages.{name}", rf"(?i)^(?:\[\w+\] )?{name}(?:\s*==\s*|\s+)(\d[\w.+]*)(?:\s|$)") for name in PACKAGES),
    ("environment", _VARIABLE),
    ("environment", r"\b((?:NCCL_|GLOO_)[A-Z0-9_]+) set (?:by environment )?to (\S+?)\.?$"),
)
LIST_LIMIT = 32


def fact_patterns() -> tuple[SearchPattern, ...]:
    """Return the patterns of lines that hold a fact."""
    return tuple(
        SearchPattern(pattern, limit=LIST_LIMIT if "[]" in path or path == "environment" else 1)
        for path, pattern in _EXTRACTORS
    )


def extract_facts(hits: Sequence[Sequence[Hit]]) -> dict[str, Any]:
    """Return the facts in the hits of `fact_patterns`; the first line with a fact wins."""
    found: dict[str, Any] = {}
    for (path, pattern), lines in zip(_EXTRACTORS, hits, strict=True):
        for hit in lines:
            match = re.search(pattern, hit.text)
            if match:
                _store(found, path, match)
    return found


def _store(found: dict[str, Any], path: str, match: re.Match[str]) -> None:
    value: Any = match[1].strip()
    if path == "environment":
        found.setdefault(path, {}).setdefault(match[1], match[2])
    elif path == "wsl":
        found["wsl"] = True
    elif path.startswith("packages.") and path != "packages.torch_cuda":
        name = re.split(r"[=\s:]", re.sub(r"^\[\w+\] ", "", match[0]), maxsplit=1)[0].lower().replace("_", "-")
        found.setdefault("packages", {}).setdefault("torch" if name == "pytorch" else name, value)
    elif "[]." in path:
        group, _, rest = path.partition("[].")
        *outer, last = group.split(".")
        _nested(found, outer).setdefault(last, []).append({rest: value})
    else:
        *outer, last = path.split(".")
        _nested(found, outer).setdefault(last, value)


def _nested(found: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    for key in keys:
        found = found.setdefault(key, {})
    return found
