"""The serving request for a model, and the device budget of a host."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from provision.core.formatting import GIB
from provision.core.models.settings import Settings, option_of, speculates, value_of
from provision.phases.plan.fit.tables import speculative

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
"""Source: human_readable_int in vllm/utils/argparse_utils.py, 0.32.0."""


@dataclass(frozen=True)
class ServingRequest:
    """The settings that decide whether a model fits, and how it is served. None: Firstlight or vLLM chooses."""

    tensor: int | None = None
    pipeline: int = 1
    data: int = 1
    hosts: int = 1
    """Hosts that the model is spread over."""
    length: int | None = None
    may_exceed: bool = False
    """Whether vLLM takes a longer context than the model supports."""
    share: float | None = None
    dtype: str = "auto"
    cache_dtype: str = "auto"
    quantization: str | None = None
    """How vLLM is to quantise the weights while it loads them."""
    offload: int = 0
    """Bytes of the weights of each GPU that stay in the host's memory."""
    batch: int | None = None
    sequences: int | None = None
    eager: bool = False
    arguments: tuple[str, ...] = ()
    """All further arguments for vLLM."""
    drafts: bool = False
    """Whether speculative decoding uses a model."""
    draft_tensor: int | None = None
    """GPUs that share each layer of the draft model; None: those of the model."""
    adapters: bool = False
    """Whether the model has LoRA adapters; their memory is not computed."""
    tool_parser: str = "auto"
    reasoning_parser: str = "auto"
    trust_remote_code: bool = False
    template: str | None = None
    """File with a chat template that replaces the model's own."""


def serving_request_of(settings: Settings, *, on_cpu: bool = False) -> ServingRequest:
    """Return the request from the settings, and from the vLLM arguments among them that affect memory."""
    words = settings.vllm_args
    draft_tensor = settings.speculative.get("draft_tensor_parallel_size")
    return ServingRequest(
        tensor=settings.tensor_parallel,
        pipeline=settings.pipeline(on_cpu=on_cpu),
        data=settings.data_parallel,
        hosts=settings.span,
        length=settings.max_model_len,
        # As vLLM reads it: vllm/envs.py, 0.32.0.
        may_exceed=settings.env.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0").strip().lower() in ("1", "true"),
        share=settings.memory_share,
        dtype=settings.dtype,
        cache_dtype=value_of(words, "--kv-cache-dtype") or "auto",
        quantization=value_of(words, "--quantization") or value_of(words, "-q"),
        offload=_gib(words, "--cpu-offload-gb"),
        batch=_whole(words, "--max-num-batched-tokens"),
        sequences=_whole(words, "--max-num-seqs"),
        eager=any(option_of(word) == "--enforce-eager" for word in words),
        arguments=words,
        drafts=speculates(words)
        or bool(settings.speculative and settings.speculative.get("method") not in speculative()["without_model"]),
        draft_tensor=draft_tensor if isinstance(draft_tensor, int) and draft_tensor > 0 else None,
        adapters=bool(settings.lora),
        tool_parser=settings.tool_parser,
        reasoning_parser=settings.reasoning_parser,
        trust_remote_code=settings.trust_remote_code,
        template=settings.chat_template,
    )


def _whole(words: Sequence[str], option: str) -> int | None:
    found = re.fullmatch(r"(\d{1,12}(?:\.\d+(?=[kmg]))?)([kmgKMG]?)", value_of(words, option) or "")
    return int(float(found[1]) * _SUFFIXES[found[2]]) if found else None


def _gib(words: Sequence[str], option: str) -> int:
    value = value_of(words, option) or ""
    return int(float(value) * GIB) if re.fullmatch(r"\d{1,6}(\.\d*)?", value) else 0


@dataclass(frozen=True)
class DeviceBudget:
    """The devices of one host that serve. `device_bytes` is one card's memory, or the whole host's on CPU."""

    platform: Literal["cuda", "rocm", "cpu"]
    devices: int
    device_bytes: int
