"""The replacement of torch.nn.MultiheadAttention has the same results, gradients, shapes and errors as torch's own."""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from verify.attention import (
    FlashAttention2Module,
    FlashMultiheadAttention,
    is_flash_attention_available,
    restore_attention,
    upgrade_attention,
    upgrade_transformer_attention,
)
from verify.attention import layers as attention_kernels
from verify.attention.layers import attend

CLOSE = {"rtol": 1e-9, "atol": 1e-10}
"""Tolerance in float64, where a difference in meaning cannot be mistaken for rounding."""


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pair(**options: Any) -> tuple[nn.MultiheadAttention, FlashMultiheadAttention]:
    """torch's module and its upgrade, with the same weights."""
    torch.manual_seed(3)
    own = nn.MultiheadAttention(24, 4, **options)
    for parameter in own.parameters():  # torch initialises biases with zero, which would hide errors in them
        nn.init.normal_(parameter, std=0.3)
    flash = copy.deepcopy(own)
    assert upgrade_attention(flash) == [""]
    return own, flash


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the options of a module and a call of it."""
    batch_first, batched, own_keys = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    queries, keys, batch = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 3))
    kdim, vdim = (draw(st.sampled_from([24, 10])), draw(st.sampled_from([24, 14]))) if own_keys else (None, None)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))

    def make(length: int, width: int) -> Any:
        shape = (length, width) if not batched else (batch, length, width) if batch_first else (length, batch, width)
        return torch.randn(shape, generator=generator)

    query = make(queries, 24)
    if own_keys:
        key, value = make(keys, kdim or 24), make(keys, vdim or 24)
    else:
        keys, key, value = queries, query, query
    masks: dict[str, Any] = {}
    kind = draw(st.sampled_from(["none", "bool", "float", "for each head", "causal"]))
    if kind == "causal":
        masks = {"attn_mask": torch.ones(queries, keys, dtype=torch.bool).triu(1), "is_causal": True}
    elif kind != "none":
        lead = (batch * 4 if batched else 4,) if kind == "for each head" else ()
        hidden = torch.rand(*lead, queries, keys, generator=generator) < 0.4
        hidden[..., 0] = False  # torch returns NaN for a query without keys
        masks = {"attn_mask": hidden if kind != "float" else torch.randn(queries, keys, generator=generator)}
    if draw(st.booleans()):
        padding = torch.rand(*((batch,) if batched else ()), keys, generator=generator) < 0.4
        padding[..., 0] = False
        masks["key_padding_mask"] = (
            padding if kind != "float" else torch.zeros(padding.shape).masked_fill(padding, -2.0)
        )
    return {
        "options": {"batch_first": batch_first, "bias": draw(st.booleans()), "kdim": kdim, "vdim": vdim},
        "inputs": (query, key, value),
        "masks": masks,
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls())
def test_results_and_gradients_equal_those_of_torch(call: dict[str, Any]) -> None:
    own, flash = pair(**call["options"])
    answers = []
    for module in (own, flash):
        # A tensor that is query, key and value at once stays one tensor: both modules have a special case for it.
        leaves = {id(part): part.clone().requires_grad_() for part in call["inputs"]}
        result, weights = module(*(leaves[id(part)] for part in call["inputs"]), **call["masks"], need_weights=False)
        assert weights is None
        wanted = [*leaves.values(), *module.parameters()]
        slopes = torch.autograd.grad(torch.cos(result).sum(), wanted)
        answers.append((result, *slopes))
    assert flash.used == "sdpa"
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(other, one, **CLOSE)


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_weights_are_returned_on_request(options: dict[str, Any]) -> None:
    own, flash = pair(**options)
    inputs = torch.randn(3, 5, 24)
    for need, average in ((True, True), (True, False), (False, True)):
        wanted = own(inputs, inputs, inputs, need_weights=need, average_attn_weights=average)
        given_ = flash(inputs, inputs, inputs, need_weights=need, average_attn_weights=average)
        torch.testing.assert_close(given_, wanted, **CLOSE)
        special = "add_bias_kv" in options or "add_zero_attn" in options
        assert flash.used == ("torch" if need or special else "sdpa")


def test_unused_weights_can_be_omitted() -> None:
    own, flash = pair(batch_first=True)
    upgrade_attention(own, discard_weights=True)
    inputs = torch.randn(2, 5, 24)
    result, weights = own(inputs, inputs, inputs)
    assert (own.used, weights) == ("sdpa", None)
    torch.testing.assert_close(result, flash(inputs, inputs, inputs)[0], **CLOSE)


def test_dropout_works_only_in_training() -> None:
    own, flash = pair(dropout=0.5, batch_first=True)
    inputs = torch.randn(1, 6, 24)
    outputs = []
    for module in (own, flash):
        torch.manual_seed(11)
        outputs.append(module.train()(inputs, inputs, inputs, need_weights=False)[0])
    torch.testing.assert_close(outputs[1], outputs[0], **CLOSE)  # the same random numbers: one kernel, one generator
    still = flash.eval()(inputs, inputs, inputs, need_weights=False)[0]
    assert not torch.allclose(outputs[1], still)


def test_a_causal_hint_without_its_mask_is_refused_as_by_torch() -> None:
    own, flash = pair()
    inputs = torch.randn(3, 1, 24)
    with pytest.raises(RuntimeError, match="attn_mask"):
        own(inputs, inputs, inputs, need_weights=False, is_causal=True)
    with pytest.raises(ValueError, match="attn_mask"):
        flash(inputs, inputs, inputs, need_weights=False, is_causal=True)


class Decoder(nn.Module):  # type: ignore[misc]
    """A model with torch's own layers in it."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(24, 4, 48, batch_first=True)
        self.body = nn.TransformerDecoder(layer, 2)

    def forward(self, target: Any, memory: Any) -> Any:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.body(target, memory, tgt_mask=mask, tgt_is_causal=True)


def encoder(*, nested: bool = False) -> nn.TransformerEncoder:
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(24, 4, 48, batch_first=True), 2, enable_nested_tensor=nested
    )


def test_the_fast_path_of_torchs_encoder_layer_does_not_bypass_the_upgrade() -> None:
    flash = encoder().eval()
    upgrade_attention(flash)
    with torch.inference_mode():
        flash(torch.randn(2, 5, 24))
    assert {layer.self_attn.used for layer in flash.layers} == {"sdpa"}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_that_makes_nested_tensors_still_computes_the_same() -> None:
    own = encoder(nested=True).eval()
    flash = copy.deepcopy(own)
    upgrade_attention(flash)
    inputs, padding = torch.randn(2, 6, 24), torch.arange(6)[None, :] >= torch.tensor([6, 2])[:, None]
    with torch.inference_mode():
        results = [module(inputs, src_key_padding_mask=padding) for module in (own, flash)]
    torch.testing.assert_close(results[1], results[0], **CLOSE)
    assert {layer.self_attn.used for layer in flash.layers} == {"torch"}


def test_a_decoder_with_a_causal_mask_and_cross_attention_computes_the_same() -> None:
    own = Decoder().eval()
    flash = copy.deepcopy(own)
    assert len(upgrade_attention(flash)) == 4
    target, memory = torch.randn(2, 5, 24), torch.randn(2, 9, 24)
    torch.testing.assert_close(flash(target, memory), own(target, memory), **CLOSE)
    assert {layer.multihead_attn.used for layer in flash.body.layers} == {"sdpa"}


def test_an_upgrade_keeps_everything_and_can_be_undone() -> None:
    model = Decoder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attention = model.body.layers[0].self_attn
    calls_: list[str] = []
    attention.register_forward_hook(lambda *_: calls_.append("hook"))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    names = upgrade_attention(model)
    assert isinstance(attention, FlashMultiheadAttention)
    assert {id(value) for value in model.parameters()} == {id(value) for value in optimizer.param_groups[0]["params"]}
    model(torch.randn(1, 3, 24), torch.randn(1, 3, 24))
    assert calls_ == ["hook"]
    assert upgrade_attention(model) == []
    assert restore_attention(model) == names
    assert type(attention) is nn.MultiheadAttention
    assert not attention._forward_pre_hooks
    assert set(vars(attention)) == set(vars(nn.MultiheadAttention(24, 4)))
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)


def test_a_state_of_torchs_module_can_be_loaded_and_a_copy_or_a_pickle_works() -> None:
    own, _ = pair(batch_first=True)
    new = FlashMultiheadAttention(24, 4, batch_first=True)
    new.load_state_dict(own.state_dict())
    stored = io.BytesIO()
    torch.save(new, stored)
    stored.seek(0)
    inputs = torch.randn(2, 4, 24)
    expected = own(inputs, inputs, inputs, need_weights=False)[0]
    for module in (new, copy.deepcopy(new), torch.load(stored, weights_only=False)):
        torch.testing.assert_close(module(inputs, inputs, inputs, need_weights=False)[0], expected, **CLOSE)
        assert restore_attention(module) == [""]


def test_subclasses_are_not_upgraded() -> None:
    class Special(nn.MultiheadAttention):  # type: ignore[misc]
        pass

    assert upgrade_attention(nn.ModuleList([Special(8, 2)])) == []


def suits(*, device: str = "cuda", dtype: torch.dtype = torch.bfloat16, keys: int = 8, causal: bool = False) -> bool:
    """Whether flash-attn is used for tensors as they are on a GPU; they are not computed."""

    def looks(length: int) -> Any:
        return SimpleNamespace(shape=(1, 2, length, 64), dtype=dtype, device=torch.device(device))

    return attention_kernels.suits_package(looks(8), looks(keys), causal=causal)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A stand-in for flash-attn, which computes by torch in the layout of the package."""

    def flash_attn_func(q: Any, k: Any, v: Any, dropout_p: float, causal: bool) -> Any:
        assert (q.shape, k.shape) == ((2, 5, 3, 8), (2, 7, 3, 8))  # batch, length, heads, dim
        own = nn.functional.scaled_dot_product_attention(
            *(part.transpose(1, 2) for part in (q, k, v)), is_causal=causal
        )
        return own.transpose(1, 2)

    made = ModuleType("flash_attn")
    made.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", made)
    attention_kernels.has_package.cache_clear()
    yield made
    attention_kernels.has_package.cache_clear()


@pytest.mark.usefixtures("package")
def test_the_package_is_preferred_if_it_supports_the_tensors() -> None:
    assert suits()
    assert suits(causal=True)
    assert not suits(causal=True, keys=9)
    assert not suits(device="cpu")
    assert not suits(dtype=torch.float32)


@pytest.mark.usefixtures("package")
def test_the_package_is_called_in_its_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    expected, used = attend(query, key, value, None, causal=False, dropout=0.0)
    assert used == "sdpa"
    monkeypatch.setattr(attention_kernels, "suits_package", lambda *_, **__: True)
    result, used = attend(query, key, value, None, causal=False, dropout=0.0)
    assert used == "flash_attn"
    torch.testing.assert_close(result, expected)
    assert attend(query, key, value, torch.ones(5, 7, dtype=torch.bool), causal=False, dropout=0.0)[1] == "sdpa"


def test_the_names_of_the_first_description_upgrade_and_restore() -> None:
    model = nn.TransformerEncoderLayer(32, 4, 64)
    assert upgrade_transformer_attention(model) is model
    assert type(model.self_attn) is FlashAttention2Module
    upgrade_transformer_attention(model, use_flash_attention=False)
    assert type(model.self_attn) is nn.MultiheadAttention
    attention_kernels.has_package.cache_clear()
    assert not is_flash_attention_available()
    assert not suits()
