"""Attention layers of a user's model whose weights the model never reads."""

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from verify.attention.layers import torch_layers


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
