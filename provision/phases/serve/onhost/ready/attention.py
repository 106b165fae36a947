"""Attention backends of the running engine's layers, from the plugin's records, and its other kernels, from its log."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .service import ReadinessRequest

EXPERTS = re.compile(
    r"Using '?([\w ]+?)'? (NvFp4|Mxfp4|MxFp8|Fp8|W4A8 Int8|W4A8|Int8|WNA16|Unquantized) MoE (?:LoRA )?backend"
)
LINEAR = re.compile(r"(?:Using|Selected) (\w+Kernel) for (\S+)")
"""Source: vllm/model_executor/kernels/linear/__init__.py and the schemes in layers/quantization, 0.32.0; each kernel's class ends so."""


def prove_attention(
    request: ReadinessRequest, proofs: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], str | None]:
    """Return the record of requested and used backend, and a problem if there is one."""
    holding = [proof for proof in proofs if proof["layers"]]
    layers = [layer for proof in holding for layer in proof["layers"]]
    held = Counter(canonical(layer["backend"]) for layer in layers)
    generations = {layer["flash_attention_version"] for layer in layers} - {None}
    evidence = [
        f"{number} attention layers in {len(holding)} engine process{'es' if len(holding) > 1 else ''} use {backend} ({kind}, {dtype} on {device})"
        for (backend, kind, dtype, device), number in Counter(
            (canonical(layer["backend"]), layer["implementation"], layer["dtype"], layer["device"]) for layer in layers
        ).items()
    ]
    called = Counter((layer.get("flash_functions"), layer["flash_attention_version"]) for layer in layers)
    evidence += [
        f"{number} layers call the flash attention{f' {version}' if version else ''} of {module}"
        for (module, version), number in called.items()
        if module
    ]
    held_switches = [{name: proof.get("variables", {}).get(name) for name in request.variables} for proof in holding]
    if request.variables and holding and all(switches == request.variables for switches in held_switches):
        evidence.append(
            f"in every engine process: {' '.join(f'{name}={value}' for name, value in request.variables.items())}"
        )
    generation = next(iter(generations)) if len(generations) == 1 else None
    used = next(iter(held)) if len(held) == 1 else None
    problem = None
    if len(holding) < request.processes:
        reasons = [proof["problem"] for proof in proofs if proof["problem"]]
        problem = (
            f"{len(holding)} of {request.processes} engine processes say which attention backend their layers use"
            + (f": {reasons[0]}" if reasons else "")
        )
    elif set(held) != {canonical(request.asked)}:
        in_use = ", ".join(
            f"{number} layer{'s use' if number > 1 else ' uses'} {backend}" for backend, number in held.items()
        )
        problem = f"requested {canonical(request.asked)}, {in_use}"
    elif odd := next((switches for switches in held_switches if switches != request.variables), None):
        name = next(name for name, value in request.variables.items() if odd[name] != value)
        problem = f"requested {name}={request.variables[name]}, an engine process has {odd[name] or 'no such variable'}"
    elif request.generation is not None and generation is not None and generation != request.generation:
        problem = f"requested {canonical(request.asked)} generation {request.generation}, {len(layers)} layers use generation {generation}"
    return {"asked": canonical(request.asked), "used": used, "generation": generation, "evidence": evidence}, problem


def canonical(backend: str | None) -> str:
    """Return the backend's common name: 0.8 to 0.10 append the engine's generation."""
    return (backend or "unknown").removesuffix("_VLLM_V1")


def kernels_in_use(log: list[str], planned: list[str]) -> list[str]:
    """Return a sentence for each kernel that the log names, and what the plan expected where that is another one."""
    found = {f"{kind} experts": name for line in log for name, kind in EXPERTS.findall(line)}
    found |= {f"{kind} weights": name for line in log for name, kind in LINEAR.findall(line)}
    missing = [name for name in planned if name not in found.values()]
    expected = f"; the plan expected {' and '.join(missing)}" if missing else ""
    return [f"{what} use {name}{'' if name in planned else expected}" for what, name in found.items()]
