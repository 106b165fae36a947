"""The files of the model: none for the built-in one, those of a folder, or those of a hub id, fetched once into the wheelhouse.

The folder on the host is named after the model and its content, so a new revision never changes files of a running service.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from provision.catalog.index.settings import ClientSettings
from provision.core.errors import StageError
from provision.core.models.settings import CHAT_TEMPLATE, Settings
from provision.core.models.staged import StagedFile
from provision.core.user_path import expand_user
from provision.phases.stage.download import Progress
from provision.phases.stage.model_hub import WEIGHTS, stage_hub_model
from provision.phases.stage.wheelhouse import Store, sha256_of

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def stage_model(
    settings: Settings, client: ClientSettings, store: Store, *, progress: Progress | None = None, refresh: bool = False
) -> tuple[str, list[StagedFile]]:
    """Return the name of the model's folder on the host, and its files.

    Weights of a hub id that the host has already, or gets itself, are not fetched: their hashes are in the hub's listing.

    Raises:
        StageError: The folder is no complete model, or the hub's files cannot be had.
    """
    text = settings.model
    folder = expand_user(text)
    if folder.is_dir():
        files = stage_folder(folder, store)
        name = folder.resolve().name
    elif _HUB_ID.fullmatch(text) and not text.startswith("."):
        files = stage_hub_model(
            text,
            settings.hf_token_file,
            client,
            store,
            weights=settings.model_on_host is None and settings.source_of("model") not in ("host", "path"),
            progress=progress,
            refresh=refresh,
        )
        name = text.partition("@")[0].split("/")[1]
    else:
        raise StageError(
            f"model `{text}` is neither a folder on this machine nor a hub id",
            hint="firstlight_model takes `builtin`, a folder, or a hub id such as `org/name` or `org/name@revision`",
        )
    if settings.chat_template is not None:
        path = Path(settings.chat_template)
        own: dict[str, Any] = {"path": str(path), "sha256": sha256_of(path), "size": path.stat().st_size}
        files = [file for file in files if file.name != CHAT_TEMPLATE]
        files.append(StagedFile(name=CHAT_TEMPLATE, kind="model", **own))
    require_complete(text, {file.name: Path(file.path) for file in files})
    return f"{name}-{_digest(files, settings.model_on_host)}", files


def stage_folder(folder: Path, store: Store) -> list[StagedFile]:
    """Return every file of a folder except hidden ones. Links are followed; hashes are cached by size and modification time."""
    root = folder.resolve()
    key = _key(root)
    known = store.get("manifests", key) or {}
    found: dict[str, dict[str, str]] = {}
    files = []
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if any(part.startswith(".") for part in relative.parts) or path.is_dir():
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
    """Check that a configuration and all weights are present.

    Raises:
        StageError: A file is missing.
    """
    missing = [] if "config.json" in files else ["config.json"]
    for name, path in files.items():
        if name.endswith(".index.json") and "/" not in name and (shards := _shards(path)):
            missing += sorted(shard for shard in shards if shard not in files)
    if not any(name.endswith(WEIGHTS) for name in files):
        missing.append("weights (*.safetensors)")
    if missing:
        raise StageError(
            f"model `{model}` lacks {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}",
            hint="fetch the model again; a folder needs config.json and every shard in its index",
        )


def _shards(index: Path) -> Iterable[str]:
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageError(f"`{index}` is not an index of shards", hint="fetch the model again") from error


def _digest(files: list[StagedFile], on_host: str | None) -> str:
    """Return the digest of the content, and of the folder that it is linked from: a folder of links is another one."""
    rows = sorted(f"{file.name}\0{file.sha256}" for file in files) + ([on_host] if on_host else [])
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:8]
