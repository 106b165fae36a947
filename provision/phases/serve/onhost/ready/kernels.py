"""Kernels that the engine took for experts and for quantised weights, from its log. A part of ready.pyz."""

from __future__ import annotations

import re

EXPERTS = re.compile(
    r"Using '?([\w ]+?)'? (NvFp4|Mxfp4|MxFp8|Fp8|W4A8 Int8|W4A8|Int8|WNA16|Unquantized) MoE (?:LoRA )?backend"
)
LINEAR = re.compile(r"(?:Using|Selected) (\w+Kernel) for (\S+)")
"""Source: vllm/model_executor/kernels/linear/__init__.py and the schemes in layers/quantization, 0.32.0; each kernel's class ends so."""


def kernels_in_use(log: list[str], planned: list[str]) -> list[str]:
    """Return a sentence for each kernel that the log names, and what the plan expected where that is another one."""
    found = {f"{kind} experts": name for line in log for name, kind in EXPERTS.findall(line)}
    found |= {f"{kind} weights": name for line in log for name, kind in LINEAR.findall(line)}
    missing = [name for name in planned if name not in found.values()]
    expected = f"; the plan expected {' and '.join(missing)}" if missing else ""
    return [f"{what} use {name}{'' if name in planned else expected}" for what, name in found.items()]
