"""What a person asked of a model's service, and the room that a host has for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from provision.core.models.settings import Settings, option_of

_FP8 = "fp8"


@dataclass(frozen=True, slots=True)
class ServingRequest:
    """The settings that decide on fit. None: this product or vLLM chooses."""

    tensor: int | None = None
    pipeline: int = 1
    data: int = 1
    length: int | None = None
    share: float | None = None
    dtype: str = "auto"
    cache_dtype: str = "auto"
    batch: int | None = None
    sequences: int | None = None
    eager: bool = False
    arguments: tuple[str, ...] = ()
    """All further arguments for vLLM, as they were given."""
    drafts: bool = False
    """Whether a draft model or layers speculate: what they take is not computed."""

    def cache_element(self, element: int) -> int:
        """Bytes of a number in the cache."""
        return 1 if self.cache_dtype.startswith(_FP8) else element


def serving_request_of(settings: Settings) -> ServingRequest:
    """From settings and those vLLM arguments that bear on memory."""
    words = settings.vllm_args
    return ServingRequest(
        tensor=settings.tensor_parallel,
        pipeline=settings.pipeline_parallel,
        data=settings.data_parallel,
        length=settings.max_model_len,
        share=settings.memory_share,
        dtype=settings.dtype,
        cache_dtype=_value(words, "--kv-cache-dtype") or "auto",
        batch=_whole(words, "--max-num-batched-tokens"),
        sequences=_whole(words, "--max-num-seqs"),
        eager=any(option_of(word) == "--enforce-eager" for word in words),
        arguments=words,
        drafts=any(option_of(word).startswith("--speculative-config") for word in words),
    )


def _value(words: Sequence[str], option: str) -> str | None:
    """The last value of an option, given as `--option value` or `--option=value`, with dashes or underscores."""
    found = None
    for place, word in enumerate(words):
        if option_of(word) == option:
            _, equals, value = word.partition("=")
            found = value if equals else next(iter(words[place + 1 : place + 2]), None)
    return found


def _whole(words: Sequence[str], option: str) -> int | None:
    value = _value(words, option)
    return int(value) if value and value.isdigit() else None


@dataclass(frozen=True, slots=True)
class DeviceBudget:
    """The devices that serve. `device_bytes` is one card's memory, or the whole host's on CPU."""

    platform: Literal["cuda", "rocm", "cpu"]
    devices: int
    device_bytes: int
    fp8_cache: bool = False
    """Whether flash kernels of these devices read a cache in 8 bits."""
