"""The files of the model: none for the built-in one, those of a folder, or those of a hub id, fetched once into the wheelhouse.

The folder on the host is named after the model and its content, so a new revision never changes files of a running service.
LoRA adapters and a draft model are files of the model too: each has a folder in that of the model.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from provision.catalog.index.settings import ClientSettings
from provision.core.errors import StageError
from provision.core.models.settings import ADAPTERS, CHAT_TEMPLATE, HUB_ID, Settings, model_name
from provision.core.models.staged import StagedFile
from provision.core.user_path import expand_user
from provision.phases.stage.download import Progress
from provision.phases.stage.model_hub import WEIGHTS, stage_hub_model
from provision.phases.stage.wheelhouse import Store, sha256_of

ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""What PEFT calls the weights of an adapter; vLLM prefers the first."""
_REFUSED = ("use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora")
"""What vLLM refuses of an adapter; source: _validate_features in vllm/lora/peft_helper.py, 0.32.0."""


def stage_model(
    settings: Settings, client: ClientSettings, store: Store, *, progress: Progress | None = None, refresh: bool = False
) -> tuple[str, list[StagedFile]]:
    """Return the name of the model's folder on the host, and its files.

    Of a hub id, files that nobody reads are not fetched, nor weights that the host has already, or gets itself: the hub lists their hashes.
    A bundle has all of them, for hosts without a hub.

    Raises:
        StageError: The folder is no complete model, or the hub's files cannot be had.
    """
    text = settings.model
    fetches = client.bundled is None and settings.source_of("model") in ("host", "path")
    weights = settings.model_on_host is None and not fetches
    replaced = CHAT_TEMPLATE if settings.chat_template else None

    def staged(source: str, is_needed: Callable[[str], bool] = lambda _: True) -> list[StagedFile]:
        token, own = settings.hf_token_file, expand_user(source)
        if own.is_dir():
            return stage_folder(own, store)
        return stage_hub_model(source, token, client, store, is_needed=is_needed, progress=progress, refresh=refresh)

    folder = expand_user(text)
    if not folder.is_dir() and not HUB_ID.fullmatch(text):
        raise StageError(
            f"model `{text}` is neither a folder on this machine nor a hub id",
            hint="firstlight_model takes `builtin`, a folder, or a hub id such as `org/name` or `org/name@revision`",
        )
    files = staged(text, lambda path: path != replaced and (weights or not path.endswith(WEIGHTS)))
    name = model_name(str(folder.resolve()) if folder.is_dir() else text)
    require_complete(text, {file.name: Path(file.path) for file in files})
    own: list[StagedFile] = []
    if settings.chat_template is not None:
        path = Path(settings.chat_template)
        size = path.stat().st_size
        own.append(StagedFile(name=CHAT_TEMPLATE, path=str(path), sha256=sha256_of(path), size=size, kind="model"))
    for adapter, source in settings.lora.items():
        own += adapter_files(adapter, staged(source, lambda path: path in (ADAPTER_CONFIG, *_ADAPTER_WEIGHTS)))
    if draft := settings.draft:
        of_draft = staged(draft)
        require_complete(draft, {file.name: Path(file.path) for file in of_draft})
        files = [file for file in files if not file.name.startswith(f"{settings.draft_folder}/")]
        own += [file.model_copy(update={"name": f"{settings.draft_folder}/{file.name}"}) for file in of_draft]
    names = {file.name for file in own}
    files = [file for file in files if file.name not in names] + own
    return f"{name}-{_digest(files, settings.model_on_host)}", files


def adapter_files(adapter: str, files: Iterable[StagedFile]) -> list[StagedFile]:
    """Return the files of an adapter that vLLM reads, by their names in the folder of the model. Raises StageError."""
    found = {file.name: file for file in files}
    weights = next((name for name in _ADAPTER_WEIGHTS if name in found), _ADAPTER_WEIGHTS[0])
    missing = [name for name in (ADAPTER_CONFIG, weights) if name not in found]
    if missing:
        raise StageError(
            f"adapter `{adapter}` lacks {', '.join(missing)}",
            hint="firstlight_lora takes LoRA adapters in the format of PEFT, as its `save_pretrained` writes them",
        )
    try:
        adapter_rank(found[ADAPTER_CONFIG])
        content = json.loads(Path(found[ADAPTER_CONFIG].path).read_text(encoding="utf-8"))
        refused = [name for name in _REFUSED if content.get(name)]
        refused += [
            f"`{name}` saved" for name in content.get("modules_to_save") or () if name not in ("classifier", "score")
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StageError(
            f"adapter `{adapter}`: {ADAPTER_CONFIG} has no rank `r`",
            hint="firstlight_lora takes LoRA adapters; other kinds of PEFT are not served by vLLM",
        ) from None
    if refused:
        raise StageError(
            f"adapter `{adapter}` has {', '.join(refused)}, which vLLM does not serve",
            hint="train it without, or merge it into the model and serve the result as firstlight_model",
        )
    folder = f"{ADAPTERS}/{adapter}"
    return [found[name].model_copy(update={"name": f"{folder}/{name}"}) for name in (ADAPTER_CONFIG, weights)]


def adapter_rank(config: StagedFile) -> int:
    """Return the largest rank in an adapter's configuration, whose modules may have their own."""
    content = json.loads(Path(config.path).read_text(encoding="utf-8"))
    return max(int(content["r"]), *map(int, (content.get("rank_pattern") or {}).values()), 1)


def stage_folder(folder: Path, store: Store) -> list[StagedFile]:
    """Return every file of a folder except hidden ones. Links are followed; hashes are cached by size and modification time."""
    root = folder.resolve()
    key = _key(root)
    known = store.get("manifests", key) or {}
    found: dict[str, dict[str, str]] = {}
    files = []
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if any(part.startswith(".") for part in relative.parts):
            continue
        if path.is_dir():
            if path.is_symlink():
                raise StageError(f"`{path}` is a link to a folder", hint="put the folder itself there")
            continue
        if not path.exists():
            raise StageError(f"`{path}` is a broken link", hint="fetch the model again, or remove the link")
        stat = path.stat()
        signature = _signature(path)
        before = known.get(str(relative), {})
        sha256 = before["sha256"] if before.get("signature") == signature else sha256_of(path)
        found[str(relative)] = {"signature": signature, "sha256": sha256}
        files.append(
            StagedFile(
                name=relative.as_posix(), path=str(path.resolve()), sha256=sha256, size=stat.st_size, kind="model"
            )
        )
    if found != known:
        store.put("manifests", key, found)
    return files


def remember_hashes(folder: Path, hashes: Mapping[str, str], store: Store) -> None:
    """Cache hashes that were just verified, so that the files need not be read again."""
    root = folder.resolve()
    found = {name: {"signature": _signature(root / name), "sha256": sha256} for name, sha256 in hashes.items()}
    store.put("manifests", _key(root), found)


def _key(root: Path) -> str:
    return hashlib.sha256(str(root).encode()).hexdigest()[:32]


def _signature(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"


def require_complete(model: str, files: dict[str, Path]) -> None:
    """Check that a configuration and all weights are present. Raises StageError where a file is missing."""
    missing = [] if "config.json" in files else ["config.json"]
    for name, path in files.items():
        # An index without any of its shards is that of another format of the weights.
        if name.endswith(".index.json") and "/" not in name and not (shards := _shards(path)).isdisjoint(files):
            missing += sorted(shards - files.keys())
    if not any(name.endswith(WEIGHTS) for name in files):
        missing.append("weights (*.safetensors)")
    if missing:
        raise StageError(
            f"model `{model}` lacks {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}",
            hint="fetch the model again; a folder needs config.json and every shard in its index",
        )


def _shards(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageError(f"`{index}` is not an index of shards", hint="fetch the model again") from error


def _digest(files: list[StagedFile], on_host: str | None) -> str:
    """Return the digest of the content, and of the folder that it is linked from: a folder of links is another one."""
    rows = sorted(f"{file.name}\0{file.sha256}" for file in files) + ([on_host] if on_host else [])
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:8]
