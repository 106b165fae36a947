"""The shape of a model: the values of config.json that decide on its memory and its splits, read as vLLM reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from provision.core.errors import ModelError
from provision.core.models.settings import Settings, value_of
from provision.core.models.stack import Input
from provision.phases.plan.family.families import UNKNOWN, Match, match
from provision.phases.plan.fit.tables import Architecture, architectures, rules
from provision.phases.plan.fit.weights import Weights

MOST = 10**9
"""The limit for sizes, lengths and counts; a larger number is an error."""
MOST_LAYERS = 10**4
"""The limit for layers; the deepest known models have some hundred."""


FP8_BLOCK = 128
"""Rows and columns of the blocks of 8-bit floats that share a scale."""

KernelFormat = Literal["nvfp4", "mxfp4", "fp8-block", "fp8-static", "fp8-dynamic"]
"""Formats of weights whose kernels kernels.toml has."""


@dataclass(frozen=True)
class Shape:
    """A model as its configuration describes it. Sizes are in elements."""

    architecture: str
    known: bool
    """Whether the architecture is in the table; else all layers are assumed to be alike."""
    weights: Weights
    layers: int
    windows: tuple[int | None, ...]
    """The attention window of each layer in tokens; None for the whole context."""
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    inner: tuple[int, ...]
    """The inner widths of the layers, dense ones and experts."""
    length: int
    """The longest context that the model supports, in tokens."""
    usual_length: int
    """The default context, in tokens; shorter than `length` for LongRoPE."""
    quantization: str | None = None
    quantization_schemes: tuple[str, ...] = ()
    """What quantization.toml may name of the layers in the format of compressed-tensors, as `float-8`."""
    kernel_format: KernelFormat | None = None
    """The format of the weights, if kernels.toml has kernels for it."""
    experts: int = 0
    """The experts of a layer."""
    expert_inner: int = 0
    """The inner width of an expert."""
    encoder_heads: int = 0
    """The attention heads of an encoder that is divided among GPUs; 0 without one."""
    encoder_inner: int = 0
    """Its inner width."""
    block: int = 0
    """Rows that share a scale, which vLLM does not split outside the experts; 0 if any split is possible."""
    blocked: tuple[int, ...] = ()
    """The inner widths that consist of such blocks."""
    model_type: str = ""
    """`model_type` of config.json."""
    text_type: str = ""
    """`model_type` of the part of config.json that describes the language model."""
    int8_activations: bool = False
    """Whether a layer multiplies 8-bit weights by activations that are rounded to 8-bit integers."""
    latent: int | None = None
    """The width of the compressed vector that replaces keys and values (MLA)."""
    query_latent: int = 0
    absorbed: int = 0
    """Elements in each layer of the projections that MLA stores a second time for decoding."""
    experts_a_token: int = 0
    tied: bool = False
    kind: Literal["usual", "latent", "sparse"] = "usual"
    """What the layers attend to: keys and values, a compressed vector (MLA), or its tokens that an index selects."""
    inputs: tuple[Input, ...] = ()
    """What the model takes besides text."""
    sinks: bool = False
    """Whether the layers have attention sinks, which some attention back ends do not support."""
    prefix: bool = False
    """Whether the tokens of an image see all of the image, which few attention back ends support."""
    largest_head: int = 0
    """The size of the largest heads."""
    alibi: bool = False
    """Whether attention weighs distances (ALiBi), which newer generations of FlashAttention do not do."""
    cache_dtype: str = "auto"
    """The type of the KV cache that the weights were made for."""
    not_computed: str | None = None
    """Why the cache of this model cannot be computed."""
    match: Match = UNKNOWN
    """The family of the model, which decides how it is served."""
    draft: "Shape | None" = None
    """The draft model for speculative decoding, where one is sent with the model."""

    def cache_type(self, requested: str) -> str:
        """Return the type of the KV cache: the requested one, else that of the weights."""
        return self.cache_dtype if requested == "auto" else requested

    @property
    def name(self) -> str:
        """Return the name for messages."""
        return f"{self.architecture}{f', {self.quantization}' if self.quantization else ''}"


def shape_of(config: Mapping[str, Any], weights: Weights, *, model: str = "") -> Shape:
    """Return the shape of a model.

    Args:
        model: The setting `model`, whose name tells families apart that config.json does not.

    Raises:
        ModelError: config.json lacks a required value, or a size is malformed.
    """
    names = config.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else "none named"
    row, prefix = architectures().get(architecture), rules("prefix")
    text = {**((row.defaults if row else None) or {}), **_text_of(config)}
    is_compressed = row is None and text.get("model_type") in rules("compressed")["models"]
    attention = row.attention if row else "latent" if is_compressed and _size(text, "kv_lora_rank") else "uniform"
    heads = _number(text, "heads", architecture)
    hidden = _number(text, "hidden", architecture)
    layers = _number(text, "layers", architecture)
    head_size = _first(text, "head_size") or hidden // heads
    if layers > MOST_LAYERS:
        raise ModelError(
            f"config.json of a {architecture} model has {layers} layers; the limit is {MOST_LAYERS}",
            hint="check that this is the model's config.json, and that it is complete",
        )
    latent = _size(text, "kv_lora_rank") if attention == "latent" else None
    length, usual = _lengths(text)
    inner = [_first(text, "inner") or 4 * hidden]
    expert_inner = _first(text, "expert_inner")
    shared = _first(text, "shared_inner")
    outside = [shared] if _first(text, "experts") and not expert_inner else [inner[0], shared]
    inner += [width for width in (expert_inner, shared) if width]
    shares_one_key = text.get("multi_query") and not text.get("new_decoder_architecture")
    quantized = _quantization_config(config) or _quantization_config(text)
    method = quantized.get("quant_method") or quantized.get("quant_algo") or "quantised"
    schemes = _quantization_schemes(quantized)
    kernel_format = _kernel_format(quantized, schemes)
    cache = quantized.get("kv_cache_scheme") or quantized.get("kv_cache_quant_algo")
    bits = cache.get("num_bits") if isinstance(cache, dict) else cache
    block = _block(quantized, kernel_format, has_experts=bool(_first(text, "experts")))
    encoder = _encoder_of(config, architecture)
    windows, odd = _windows(text, row, attention, layers)
    if latent is None and attention == "latent":
        odd = "config.json has no `kv_lora_rank`"
    return Shape(
        architecture=architecture,
        known=row is not None,
        weights=weights,
        layers=layers,
        windows=windows,
        hidden=hidden,
        heads=heads,
        kv_heads=1 if shares_one_key else _first(text, "kv_heads") or heads,
        head_size=head_size,
        vocabulary=_size(text, "vocab_size") or 0,
        inner=tuple(dict.fromkeys(inner)),
        length=length,
        usual_length=usual,
        quantization=str(method) if quantized else None,
        quantization_schemes=schemes,
        kernel_format=kernel_format,
        experts=_first(text, "experts") or 0,
        expert_inner=expert_inner or inner[0],
        encoder_heads=_first(encoder, "encoder_heads") or 0,
        encoder_inner=_first(encoder, "encoder_inner") or 0,
        block=block,
        blocked=tuple(width for width in outside if width and block),
        model_type=str(config.get("model_type", "")),
        text_type=str(text.get("model_type", "")),
        int8_activations=any(scheme.endswith(" with int-8") for scheme in schemes),
        latent=latent + (_size(text, "qk_rope_head_dim") or 0) if latent else None,
        query_latent=_size(text, "q_lora_rank") or 0 if latent else 0,
        absorbed=latent * heads * ((_size(text, "qk_nope_head_dim") or 0) + (_size(text, "v_head_dim") or 0))
        if latent
        else 0,
        experts_a_token=_first(text, "experts_a_token") or 0 if _first(text, "experts") else 0,
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        kind=_kind(text, attention),
        inputs=tuple(name for name in get_args(Input) if _has_key(config, rules("inputs")[name])),
        sinks=bool(row and row.sinks),
        prefix=text.get("use_bidirectional_attention") == prefix["bidirectional"]
        or bool(config.get("is_mm_prefix_lm", config.get("model_type") in prefix["models"])),
        largest_head=max(head_size, _size(text, "global_head_dim") or 0),
        alibi=text.get("alibi") is True or text.get("model_type") in rules("alibi")["models"],
        cache_dtype=rules("cache_types").get(str(bits).upper(), "auto"),
        not_computed=odd,
        match=match(config, model),
    )


def shape_for(settings: Settings, shapes: Mapping[str, Shape]) -> Shape | None:
    """Return the shape of the model in the settings, with that of its draft model, and without an encoder that is not divided.

    Args:
        shapes: Shapes by source; those that could not be read are absent.
    """
    shape = shapes.get(settings.model)
    if shape and "media" in shape.inputs and value_of(settings.vllm_args, "--mm-encoder-tp-mode") == "data":
        shape = replace(shape, encoder_heads=0, encoder_inner=0)
    return shape and replace(shape, draft=shapes.get(settings.draft or ""))


def _kind(text: Mapping[str, Any], attention: str) -> Literal["usual", "latent", "sparse"]:
    if attention not in {"latent", "mixed"} or _size(text, "kv_lora_rank") is None:
        return "usual"
    return "sparse" if _size(text, "index_topk") else "latent"


def _has_key(config: Mapping[str, Any], words: Sequence[str]) -> bool:
    """Return whether a key with a value contains one of the words, at any depth."""
    return any(
        (bool(value) and any(word in key.lower() for word in words))
        or (isinstance(value, Mapping) and _has_key(value, words))
        for key, value in config.items()
    )


def _text_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the language model in a multimodal model, or of the layers in a draft model."""
    if isinstance(thinker := config.get("thinker_config"), dict):  # of a model that speaks, beside that of its voice
        return {**config, **_text_of(thinker)}
    nested = config.get("text_config") or config.get("llm_config") or config.get("language_config")
    nested = nested or config.get("transformer_layer_config")  # of a draft model in the format of speculators
    if not isinstance(nested, dict):
        return dict(config)
    return {**rules("part_defaults").get(str(nested.get("model_type")), {}), **config, **nested}


def _encoder_of(config: Mapping[str, Any], architecture: str) -> Mapping[str, Any]:
    """Return the configuration of an encoder that vLLM divides among GPUs; empty without one."""
    found = config.get("vision_config") or config.get("audio_config")
    return found if isinstance(found, dict) and architecture in rules("encoders")["names"] else {}


def _size(text: Mapping[str, Any], key: str) -> int | None:
    """Return an optional size; None for zero, negative numbers and booleans."""
    value = text.get(key)
    if value is None or isinstance(value, bool):
        return None
    if not isinstance(value, int) or value > MOST:
        raise ModelError(
            f"config.json has `{key}: {str(value)[:40]}`; it must be a whole number up to {MOST}",
            hint="check that this is the model's config.json, and that it is complete",
        )
    return value if value > 0 else None


def _first(text: Mapping[str, Any], what: str) -> int | None:
    value = next((text[key] for key in rules("keys")[what] if text.get(key) is not None), None)
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, int) and 0 < value <= MOST else None


def _number(text: Mapping[str, Any], what: str, architecture: str) -> int:
    found = _first(text, what)
    if found is None:
        raise ModelError(
            f"config.json of a {architecture} model has no `{rules('keys')[what][0]}`",
            hint="check that this is a language model, and that its config.json is complete",
        )
    return found


def _lengths(text: Mapping[str, Any]) -> tuple[int, int]:
    """Return the longest context and the default one, in tokens.

    Source: _get_and_verify_max_len in vllm/config/model.py and derive_max_model_len_and_key in the source of `keys`, 0.32.0.
    """
    table = rules("rope")
    found = [size for key in rules("keys")["length"] if (size := _size(text, key))]
    length = _size(text, "model_max_length") or min(found, default=int(table["length_if_unsaid"]))
    scaling = text.get("rope_scaling") or text.get("rope_parameters")
    if not isinstance(scaling, dict) or table["scaled_models"] in str(text.get("model_type")):
        return length, length
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    factor = scaling.get("factor")
    if kind not in table["already_scaled"] and isinstance(factor, int | float) and 0 < factor < MOST:
        length = int(length * factor)
    original = _size(text, "original_max_position_embeddings")
    return length, original if original and kind in table["shorter_unasked"] else length


def _windows(
    text: Mapping[str, Any], row: Architecture | None, attention: str, layers: int
) -> tuple[tuple[int | None, ...], str | None]:
    """Return each layer's window, and why the cache cannot be computed (None if it can)."""
    whole: tuple[int | None, ...] = (None,) * layers
    if attention == "mixed":
        return whole, "its layers keep other state than keys and values"
    window = _size(text, "sliding_window") if text.get("use_sliding_window") is not False else None
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and len(kinds) >= layers:
        odd = sorted({str(kind) for kind in kinds[:layers]} - {"full_attention", "sliding_attention"})
        if odd:
            return whole, f"it has layers of kind {', '.join(odd)}"
        return tuple(window if kind == "sliding_attention" else None for kind in kinds[:layers]), None
    if attention == "layered" and row:
        every = _size(text, "sliding_window_pattern") or _size(text, "_sliding_window_pattern") or row.full_every
        return tuple(None if (layer + 1) % every == 0 else window for layer in range(layers)), None
    return (whole if attention == "latent" else (window,) * layers), None


def _quantization_config(config: Mapping[str, Any]) -> dict[str, Any]:
    quantized = config.get("quantization_config") or config.get("compression_config")
    inner = quantized.get("quantization") if isinstance(quantized, dict) else None
    if isinstance(inner, dict):  # ModelOpt up to 0.29, in a file of its own
        return {"quant_method": "modelopt", **inner}
    return quantized if isinstance(quantized, dict) else {}


def _quantization_schemes(quantized: Mapping[str, Any]) -> tuple[str, ...]:
    """Return type and bits of the weights of each group of layers in the format of compressed-tensors, alone, with those of its inputs, and with the size of its groups."""
    names: list[str] = []
    groups = quantized.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        if not isinstance(group, dict):
            continue
        weights, inputs = group.get("weights"), group.get("input_activations")
        if not isinstance(weights, dict):
            continue
        name = _number_format(weights)
        names.append(name)
        if isinstance(inputs, dict):
            names.append(f"{name} with {_number_format(inputs)}")
        if weights.get("group_size"):
            names.append(f"{name} in groups of {weights['group_size']}")
    return tuple(dict.fromkeys(names))


def _kernel_format(quantized: Mapping[str, Any], schemes: Sequence[str]) -> KernelFormat | None:
    if quantized.get("quant_method") == "mxfp4":
        return "mxfp4"
    if quantized.get("quant_method") == "fp8":
        block = quantized.get("weight_block_size")
        if block is not None:
            return "fp8-block" if block == [FP8_BLOCK, FP8_BLOCK] else None
        return "fp8-static" if quantized.get("activation_scheme") == "static" else "fp8-dynamic"
    is_grouped = "float-4 with float-4" in schemes and "float-4 in groups of 16" in schemes
    return "nvfp4" if is_grouped or quantized.get("quant_algo") == "NVFP4" else None


def _block(quantized: Mapping[str, Any], kernel_format: KernelFormat | None, *, has_experts: bool) -> int:
    """Return how many rows of a weight share a scale, where vLLM refuses to split them; 0 where it splits any.

    Models with experts often leave their other layers out of groups, so nothing is assumed of these.
    Source: validate_fp8_block_shape; AutoAWQLinearMethod, verify_group_size_divides_partition in vllm/distributed/utils.py, 0.32.0.
    """
    groups = quantized.get("config_groups")
    weights = [group.get("weights") for group in groups.values()] if isinstance(groups, dict) else [quantized]
    sizes = [one.get("group_size") for one in weights if isinstance(one, dict)]
    if kernel_format == "fp8-block":
        return FP8_BLOCK
    return (
        0 if has_experts or quantized.get("desc_act") else max([0, *(size for size in sizes if isinstance(size, int))])
    )


def _number_format(quantised: Mapping[str, Any]) -> str:
    return f"{quantised.get('type')}-{quantised.get('num_bits')}"
