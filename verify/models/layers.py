"""Attention layers of a user's model: those of transformers, by the name in its configuration, and those whose weights the model never reads."""

import gc
import importlib
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from verify.attention.layers import package_problem, torch_layers
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


class _WeightsReadError(BaseException):
    """A model uses attention weights. The model's own `except Exception` must not hide that."""


class _Unreadable(Tensor):  # type: ignore[misc]
    """Stands for attention weights; each use of it as a tensor raises."""

    layer: str

    @classmethod
    def __torch_function__(cls, *_call: Any, **_others: Any) -> Any:
        raise _WeightsReadError(cls.layer)


def layers_with_unread_weights(model: nn.Module, call: Callable[[], object]) -> list[str]:
    """Return the names of attention layers that return weights which the model neither uses, keeps nor returns.

    `call` runs the model, as in training and as in evaluation, since it may read weights in one of them.
    """
    layers = torch_layers(model)
    was_training = model.training
    try:
        for mode in (True, False):
            model.train(mode)
            unread = _unread(layers, call)
            layers = {name: module for name, module in layers.items() if name in unread}
    finally:
        model.train(was_training)
    return list(layers)


def _unread(layers: dict[str, nn.Module], call: Callable[[], object]) -> set[str]:
    read: set[str] = set()
    while True:
        made: dict[str, list[weakref.ref[Tensor]]] = {}
        hooks = [
            module.register_forward_hook(partial(_without_weights, name, made))
            for name, module in layers.items()
            if name not in read
        ]
        try:
            with torch.no_grad():
                answer = call()
        except _WeightsReadError as error:
            read.add(str(error))
            continue
        finally:
            for hook in hooks:
                hook.remove()
        gc.collect()
        kept = {name for name, stands in made.items() if any(stand() is not None for stand in stands)}
        del answer  # it kept alive what the model returns
        return made.keys() - kept


def _without_weights(
    name: str, made: dict[str, list[weakref.ref[Tensor]]], _module: nn.Module, _inputs: Any, output: tuple[Tensor, Any]
) -> tuple[Tensor, Any] | None:
    if output[1] is None:
        return None
    stand = torch.empty(0).as_subclass(type("_Unreadable", (_Unreadable,), {"layer": name}))
    made.setdefault(name, []).append(weakref.ref(stand))
    return output[0], stand
