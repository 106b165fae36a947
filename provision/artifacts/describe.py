"""What of a model decides on its memory, before its weights are here: config.json and the size of the weights, from a folder or the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provision.artifacts.user_index import read_settings
from provision.artifacts.wheelhouse import Store, plain_name
from provision.errors import ModelError
from provision.fit import Shape, shape_of
from provision.fit.weights import BYTES_OF, Weights, counted, in_folder, of_headers, read_header
from provision.models.settings import Settings

_STORED_AS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def describe(settings: Settings, store: Store, *, refresh: bool = False) -> Shape | None:
    """The shape of the model that the settings name; null for the built-in one. Of a hub id the small files alone are fetched, once.

    Raises StageError when the hub cannot be asked, ModelError when the files are not a language model's.
    """
    if settings.model == "builtin":
        return None
    folder = Path(settings.model).expanduser()
    if folder.is_dir():
        config = _config(folder / "config.json")
        return shape_of(config, in_folder(folder, layers=_layers(config)))
    return _of_hub(settings, store, refresh=refresh)


def _of_staged(staged: Mapping[str, Any], store: Store) -> Shape | None:
    """The shape of a model that was fetched before; null when files of it are gone."""
    paths = {row["path"]: store.find(row["sha256"], plain_name(row["path"])) for row in staged["files"]}
    config = paths.get("config.json")
    weights = {name: path for name, path in paths.items() if name.endswith(".safetensors")}
    if config is None or not weights or not all(weights.values()):
        return None
    read = _config(config)
    headers = (read_header(path) for path in weights.values() if path)
    return shape_of(read, of_headers(headers, layers=_layers(read)))


def _of_hub(settings: Settings, store: Store, *, refresh: bool) -> Shape:
    from provision.artifacts.hub import hub_description, model_key  # noqa: PLC0415 (only where a hub is asked)

    key = model_key(settings.model)
    staged = None if refresh else store.recall("models", key)
    if staged and (found := _of_staged(staged, store)):
        return found
    known = None if refresh else store.recall("described", key)
    if known is None:
        known = hub_description(settings.model, settings.hf_token_file, read_settings())
        store.remember("described", key, known)
    config = known["config"]
    return shape_of(config, _weights(known, config))


def _weights(known: Mapping[str, Any], config: Mapping[str, Any]) -> Weights:
    """By the numbers of each format that the hub counted, else by the size of the files in the format of config.json."""
    numbers: dict[str, int] = known["parameters"]
    if numbers and numbers.keys() <= BYTES_OF.keys():
        sizes = {dtype: int(count * BYTES_OF[dtype]) for dtype, count in numbers.items()}
        return counted(sizes, "the hub's count of parameters")
    nested = config.get("text_config")
    said = config.get("dtype") or config.get("torch_dtype") or (nested or {}).get("torch_dtype")
    stored = _STORED_AS.get(str(said), "BF16") if not config.get("quantization_config") else "U8"
    return counted({stored: int(known["bytes"])}, "the size of the files")


def _layers(config: Mapping[str, Any]) -> int | None:
    nested = config.get("text_config")
    layers = (nested if isinstance(nested, dict) else config).get("num_hidden_layers")
    return layers if isinstance(layers, int) else None


def _config(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"`{path}` cannot be read: {error}", hint="fetch the model again") from None
    if not isinstance(read, dict):
        raise ModelError(f"`{path}` is no model's configuration: it holds no mapping", hint="fetch the model again")
    return read
