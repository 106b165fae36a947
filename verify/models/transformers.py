"""Models of transformers: a name in their configuration chooses the function that computes the attention of every layer."""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from verify.attention.kernels import package_problem
from verify.models.source import UnusableError

FLASH, SDPA = "flash_attention_2", "sdpa"
MASK = "attention_mask"

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]


def has_interface(model: nn.Module) -> bool:
    """Return whether a model chooses its attention by name."""
    return hasattr(model, "set_attn_implementation") and hasattr(getattr(model, "config", None), "_attn_implementation")


def implementation(model: nn.Module) -> str | None:
    """Return the name that a model has now."""
    name: str | None = model.config._attn_implementation  # noqa: SLF001 - transformers has no public one
    return name


def best_name(model: nn.Module) -> str:
    """Return the name of flash-attn's kernels where this model can use them, else that of torch's own choice."""
    one = next(model.parameters())
    small = one.dtype in (torch.float16, torch.bfloat16) and one.device.type == "cuda"
    return FLASH if small and getattr(model, "_supports_flash_attn", False) and package_problem() is None else SDPA


def switch(model: nn.Module, name: str) -> None:
    """Choose another implementation. Raises UnusableError where the model cannot use it."""
    try:
        model.set_attn_implementation(name)
    except (ImportError, ValueError) as error:
        raise UnusableError(f"{type(model).__name__} cannot use `{name}`: {error}") from error
    if implementation(model) != name:
        raise UnusableError(f"{type(model).__name__} does not compute its attention by transformers' interface")


def layers_computed(model: nn.Module, name: str, call: Callable[[], object]) -> list[str]:
    """Return the names of the modules whose attention the function of that name computes during a call."""
    seen: list[nn.Module] = []
    interface = importlib.import_module("transformers.modeling_utils").AttentionInterface
    function = interface()[name]

    def record(module: nn.Module, *arguments: Any, **keywords: Any) -> Any:
        seen.append(module)
        return function(module, *arguments, **keywords)

    interface.register(name, record)
    try:
        call()
    finally:
        interface.register(name, function)
    return [one for one, module in model.named_modules() if any(module is other for other in seen)]


@contextmanager
def without_cache(*models: nn.Module) -> Iterator[None]:
    """Keep models from storing keys between calls: a layer that is called again would see them twice."""
    kept = [(model.config, model.config.use_cache) for model in models if hasattr(model.config, "use_cache")]
    for config, _ in kept:
        config.use_cache = False
    try:
        yield
    finally:
        for config, value in kept:
            config.use_cache = value


def with_mask_of(module: nn.Module, inputs: Inputs, other: Inputs) -> Inputs:
    """Return the inputs of a layer with the mask of another call: each implementation wants its own form of the same mask.

    Raises UnusableError where the layer gets stored keys.
    """
    signature = inspect.signature(module.forward)
    bound, masked = (signature.bind(*arguments, **keywords) for arguments, keywords in (inputs, other))
    if any(name.startswith("past_key_value") and value is not None for name, value in bound.arguments.items()):
        raise UnusableError("the inputs hold or ask for stored keys: leave out past_key_values and use_cache")
    if MASK in masked.arguments:
        bound.arguments[MASK] = masked.arguments[MASK]
    return bound.args, bound.kwargs
