"""Kinds of faults and the checks that find them, for docs/reference/checks.md; a test compares the table with real faults."""

from __future__ import annotations

from typing import NamedTuple


class FaultFamily(NamedTuple):
    """Faults of one kind. `standard` and `full` name the checks that find them at that level; `full` only those that find more."""

    about: str
    standard: tuple[str, ...]
    full: tuple[str, ...]
    missed: str


FAMILIES: dict[str, FaultFamily] = {
    "unit": FaultFamily(
        "a drop-in or an edit changes command, variables, hardening or limits",
        ("serving.unit", "libraries.injected"),
        (),
        "fields that this release of systemd does not show",
    ),
    "access": FaultFamily(
        "no API key, secrets that others can read, an address that others reach",
        ("serving.access",),
        (),
        "who read the key while it was readable; paths that vLLM itself leaves open",
    ),
    "service": FaultFamily(
        "it is stopped or frozen, or something else answers on its port",
        ("serving.unit", "serving.process", "serving.answer"),
        (),
        "an engine that stops between two runs",
    ),
    "model": FaultFamily(
        "bits of weights, tokenizer, configuration; another model under its name",
        ("serving.model", "serving.answer"),
        (),
        "a model that was wrong when it was sent",
    ),
    "files": FaultFamily(
        "a file of the environment has other content, or is gone",
        ("libraries.files",),
        ("libraries.files",),
        "on standard, corrupted bits in a file that nothing has mapped, with unchanged size and times; the system's own files outside the environment",
    ),
    "injected code": FaultFamily(
        "`.pth`, `sitecustomize`, modules that no wheel contains; variables and `/etc/ld.so.preload` that load code",
        ("libraries.injected",),
        (),
        "code in the standard library of the host's own Python; what a process changed in itself after its start",
    ),
    "operators": FaultFamily(
        "softmax, exp, norms, rotary embedding, activations, lookups or sampling are slightly wrong",
        (
            "operators.softmax",
            "operators.exp",
            "operators.norm",
            "operators.rotary",
            "operators.activation",
            "operators.lookup",
            "operators.sampling",
        ),
        (),
        "errors below rounding, such as 0.1 % in bfloat16; intermittent faults",
    ),
    "vLLM's operators": FaultFamily(
        "the same in vLLM's own kernels, and its cache, quantised products and sampler; on full also a sampler without top-k and top-p",
        (
            "operators.vllm_norm",
            "operators.vllm_rotary",
            "operators.vllm_activation",
            "operators.vllm_quantised",
            "operators.vllm_cache",
            "operators.vllm_sampler",
        ),
        ("engine.answers",),
        "kernels of mixture-of-experts and state-space models, and of 4-bit weights",
    ),
    "products": FaultFamily(
        "matrix products that are wrong, also only large or batched ones, or in 8 bits",
        ("kernels.gemm", "kernels.gemm_batched", "kernels.gemm_8bit"),
        ("kernels.gemm",),
        "shapes beyond those that are tried",
    ),
    "attention": FaultFamily(
        "attention that is wrong, also only for long sequences or large batches",
        ("attention.sdpa_flash", "attention.vllm_cpu"),
        (),
        "faults that begin beyond 4,160 keys",
    ),
}
"""By name, as the rows of the page."""
