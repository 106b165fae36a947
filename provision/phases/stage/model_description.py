"""What decides on the memory of a model before its weights are fetched: config.json and the size of the weights."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provision.catalog.index.settings import read_settings
from provision.catalog.rows import Row
from provision.core.errors import ModelError
from provision.core.json_text import parse_object
from provision.core.models.settings import Settings
from provision.core.tables import rows_of
from provision.core.user_path import expand_user
from provision.phases.plan.fit.shape import Shape, shape_of
from provision.phases.plan.fit.weights import BYTES_OF, KNOWN, counted, in_folder
from provision.phases.stage.model_hub import QUANTIZATION, HubModel, HubSilentError, model_key, open_hub
from provision.phases.stage.wheelhouse import Store

_KNOWN_MODELS = Path(__file__).with_name("known_models.toml")
_TOLERANCE = 1.05
"""A count that needs more bytes than the files is one of unpacked numbers, as the hub counts those of MXFP4, GPTQ and AWQ."""
_STORED_AS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class KnownModel(Row):
    """A model whose sizes the product has; known_models.toml explains the values."""

    id: str
    architecture: str
    parameters: dict[str, int]
    config: dict[str, Any]


def describe(settings: Settings, store: Store, *, refresh: bool = False) -> Shape | None:
    """Return the shape of the model in the settings; None for the built-in one. Of a hub id, only small files are fetched, once.

    Raises:
        StageError: The hub does not answer.
        ModelError: The folder does not exist, or the files are not those of a language model.
    """
    if settings.model == "builtin":
        return None
    folder = expand_user(settings.model)
    if folder.is_dir():
        config = _config(folder / "config.json")
        if (folder / QUANTIZATION).is_file():
            config = {"quantization_config": _config(folder / QUANTIZATION)} | config
        return shape_of(config, in_folder(folder, layers=_layers(config)), model=str(folder.resolve()))
    if folder.is_absolute():
        raise ModelError(f"there is no folder {folder}", hint="correct firstlight_model, or bring a bundle (--bundle)")
    key = model_key(settings.model)
    if not refresh and (kept := store.get("described", key)):
        with contextlib.suppress(ValueError, ModelError):  # written by another release: query the hub again
            return _shape(settings.model, HubModel.model_validate(kept))
    try:
        with open_hub(settings.model, settings.hf_token_file, read_settings()) as hub:
            known = hub.description()
    except HubSilentError:
        if shipped := _known(settings.model):
            return shipped
        raise
    shape = _shape(settings.model, known)
    store.put("described", key, known.model_dump())
    return shape


def describe_all(settings: Settings, store: Store, *, refresh: bool = False) -> dict[str, Shape]:
    """Return the shapes of the model and of a draft model whose size can be told. Raises as `describe`."""
    shape = describe(settings, store, refresh=refresh)
    found = {settings.model: shape} if shape else {}
    if shape and settings.draft:
        with contextlib.suppress(ModelError):
            draft = describe(settings.model_copy(update={"model": settings.draft}), store, refresh=refresh)
            found |= {settings.draft: draft} if draft else {}
    return found


def try_sources(settings: Settings, store: Store, tried: set[str]) -> None:
    """Try whether the hub gives what is not here yet: adapters, which no plan reads, and all that needs a token.

    A silent hub is no reason not to plan. `tried` has the sources that were tried before, and gets those that are tried
    now. Raises StageError where the hub refuses one, or does not have it.
    """
    for source in settings.model_sources:
        is_read = source not in settings.lora.values() and settings.hf_token_file is None
        is_here = expand_user(source).is_dir() or store.get("models", model_key(source))
        if source == "builtin" or source in tried or is_read or is_here:
            continue
        with contextlib.suppress(HubSilentError), open_hub(source, settings.hf_token_file, read_settings()) as hub:
            hub.try_access()
        tried.add(source)


def _known(model: str) -> Shape | None:
    """Return the shape of a model by the figures of the product; None where it has none."""
    name = model.partition("@")[0]
    row = next((row for row in rows_of(_KNOWN_MODELS, "model", KnownModel) if row.id == name), None)
    if row is None:
        return None
    config = {"architectures": [row.architecture], **row.config}
    return shape_of(config, counted(_sizes(row.parameters), KNOWN), model=model)


def _shape(model: str, known: HubModel) -> Shape:
    """Return the shape, its weights by the hub's parameter counts, else by file sizes in the format of config.json."""
    config, nested = known.config, known.config.get("text_config")
    sizes = _sizes(known.parameters) if known.parameters.keys() <= BYTES_OF.keys() else {}
    if sizes and not 0 < known.bytes * _TOLERANCE < sum(sizes.values()):
        return shape_of(config, counted(sizes, "the hub's count of parameters"), model=model)
    dtype = config.get("dtype") or config.get("torch_dtype")
    dtype = dtype or (nested.get("torch_dtype") if isinstance(nested, dict) else None)
    stored = _STORED_AS.get(str(dtype), "BF16") if not config.get("quantization_config") else "U8"
    return shape_of(config, counted({stored: known.bytes}, "the size of the files"), model=model)


def _sizes(parameters: Mapping[str, int]) -> dict[str, int]:
    return {dtype: int(count * BYTES_OF[dtype]) for dtype, count in parameters.items()}


def _layers(config: Mapping[str, Any]) -> int | None:
    nested = config.get("text_config")
    layers = (nested if isinstance(nested, dict) else config).get("num_hidden_layers")
    return layers if isinstance(layers, int) else None


def _config(path: Path) -> dict[str, Any]:
    try:
        return parse_object(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"`{path}` cannot be read: {error}", hint="fetch the model again") from None
