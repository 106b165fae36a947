"""Models of a hub, fetched once by the controller: resumable, every file verified, the token sent to the hub alone.

Large files have a sha256 in the hub's listing, the others a git blob hash. HF_ENDPOINT names another hub or a mirror.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from pydantic import AliasChoices, AliasPath, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from provision.catalog.index.http_client import get, open_client
from provision.catalog.index.settings import ClientSettings
from provision.core.errors import StageError
from provision.core.json_text import parse_object
from provision.core.models.base import Record
from provision.core.models.staged import StagedFile
from provision.core.redaction import register_secret
from provision.core.user_path import expand_user
from provision.phases.stage.download import Progress, fetch_all
from provision.phases.stage.wheelhouse import Store, flat_name, is_safe_path

if TYPE_CHECKING:
    import httpx

WEIGHTS = (".safetensors", ".bin")
QUANTIZATION = "hf_quant_config.json"
_LONGEST_TOKEN = 1024
_TOKEN = re.compile(rb"[!-~]{1,1024}")
_DEFAULT_ENDPOINT = "https://huggingface.co"
_KEPT = {".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".safetensors", ".bin"}
"""File types of a model repository that vLLM reads."""
_FURTHER = re.compile(r"[1-9]\d*_\w+/(model\.safetensors|pytorch_model\.bin)|(sparse|colbert)_linear\.pt")
"""Weights of layers after an embedding model, without which its vectors are wrong; source: adapters.py and roberta.py in vllm/model_executor/models, 0.32.0."""


class HubSilentError(StageError):
    """The model hub does not answer."""


@dataclass(frozen=True)
class HubFile:
    """A file of the model. Its name in the wheelhouse has no folders."""

    path: str
    url: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        return flat_name(self.path)


_Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 60)]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class ListedFile(_Answer):
    """A file of a revision: with a sha256 when it is large, else with its git blob hash."""

    path: str = Field(validation_alias="rfilename")
    bytes: Annotated[_Count, BeforeValidator(lambda size: size or 0)] = Field(
        default=0, validation_alias=AliasChoices("size", AliasPath("lfs", "size"))
    )
    """Its size, 0 when unknown."""
    blob: str | None = Field(default=None, validation_alias="blobId")
    sha256: str | None = Field(default=None, validation_alias=AliasPath("lfs", "sha256"))


class HubRevision(_Answer):
    """The listing of one commit of a model repository."""

    commit: str = Field(validation_alias="sha")
    files: tuple[ListedFile, ...] = Field(validation_alias="siblings")
    parameters: dict[str, _Count] | None = Field(default=None, validation_alias=AliasPath("safetensors", "parameters"))
    """The number of parameters by format, where the hub counted them."""


class HubModel(Record):
    """What the wheelhouse keeps of a model before its weights are fetched: config.json, parameters by format, bytes of weights."""

    config: dict[str, Any]
    parameters: dict[str, _Count]
    bytes: _Count


def stage_hub_model(
    model: str,
    token_file: str | None,
    settings: ClientSettings,
    store: Store,
    *,
    is_needed: Callable[[str], bool],
    progress: Progress | None,
    refresh: bool,
) -> list[StagedFile]:
    """Fetch the files of `org/name` or `org/name@revision`. The hub is not queried again unless `refresh` is set.

    Args:
        is_needed: Returns whether the file of a path is fetched; the others have empty paths.
        refresh: Whether to query the hub again.

    Raises:
        StageError: The hub does not answer or does not have the model, wants a token, or serves a wrong file.
    """
    key = model_key(model)
    known = None if refresh else store.get("models", key)
    if known:
        files = [HubFile(**row) for row in known["files"]]
    else:
        with open_hub(model, token_file, settings) as hub:
            files = hub.files(store)
    client = partial(_open_client, settings, token_file)
    paths = fetch_all(store, [file for file in files if is_needed(file.path)], client, what="model", progress=progress)
    if not known:
        store.put("models", key, {"model": model, "files": [asdict(file) for file in files]})
    return [
        StagedFile(
            name=file.path,
            path=str(paths.get(file.sha256, "")),
            sha256=file.sha256,
            size=file.size,
            kind="model",
            hub_path=file.url.removeprefix(f"{endpoint()}/"),
        )
        for file in files
    ]


@contextmanager
def open_hub(model: str, token_file: str | None, settings: ClientSettings) -> Iterator[Hub]:
    """Provide the hub for one model. What it is asked raises StageError, as in `stage_hub_model`."""
    with _open_client(settings, token_file) as client:
        yield Hub(client, endpoint(), model)


def endpoint() -> str:
    """Return the hub's address: HF_ENDPOINT, else the public one."""
    return os.environ.get("HF_ENDPOINT", _DEFAULT_ENDPOINT).rstrip("/")


def model_key(model: str) -> str:
    """Return the cache key of a model."""
    return hashlib.sha256(f"{endpoint()}\0{model}".encode()).hexdigest()[:32]


def _open_client(settings: ClientSettings, token_file: str | None) -> httpx.Client:
    token, opened = _token(token_file), open_client(settings)
    if token:
        opened.headers["Authorization"] = f"Bearer {token}"
    return opened


class Hub:
    """The hub, asked for one model."""

    def __init__(self, client: httpx.Client, endpoint: str, model: str) -> None:
        self._client, self._endpoint = client, endpoint
        self._model, _, revision = model.partition("@")
        self._revision = revision or "main"

    def files(self, store: Store) -> list[HubFile]:
        """Return the files of the model that vLLM reads; those without a sha256 in the listing are fetched."""
        listed, wanted = self._listed()
        return [self._file(file, listed.commit, store) for file in wanted]

    def try_access(self) -> None:
        """Fetch the configuration of a model, or of an adapter: where a hub refuses it, it refuses all files."""
        listed, wanted = self._listed()
        for name in [file.path for file in wanted if file.path.endswith("config.json")][:1]:
            self._get(self._address(listed.commit, name))

    def description(self) -> HubModel:
        """Fetch what the hub has on a model besides its weights."""
        listed, wanted = self._listed()
        if not any(file.path == "config.json" for file in wanted):
            raise StageError(
                f"`{self._model}` has no config.json",
                hint="use a model in the format of transformers, with safetensors",
            )
        config = self._object(self._address(listed.commit, "config.json"))
        if any(file.path == QUANTIZATION for file in wanted):
            config = {"quantization_config": self._object(self._address(listed.commit, QUANTIZATION))} | config
        weights = sum(file.bytes for file in wanted if file.path.endswith(WEIGHTS))
        return HubModel(config=config, parameters=listed.parameters or {}, bytes=weights)

    def _listed(self) -> tuple[HubRevision, list[ListedFile]]:
        """Return the revision, and the files of it that are needed."""
        address = f"/api/models/{self._model}/revision/{quote(self._revision, safe='')}?blobs=true"
        try:
            found = HubRevision.model_validate(self._object(address))
        except ValidationError as error:
            first = error.errors()[0]
            raise self._wrong(address, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        needed = _needed([file.path for file in found.files])
        return found, [file for file in found.files if file.path in needed]

    def _file(self, listed: ListedFile, commit: str, store: Store) -> HubFile:
        path = listed.path
        if not is_safe_path(path):
            raise StageError(
                f"the hub `{self._endpoint}` lists the unsafe file name `{path[:80]}` in {self._model}",
                hint="no file was written; use another hub (HF_ENDPOINT)",
            )
        address = self._address(commit, path)
        if listed.sha256:
            return HubFile(path, self._endpoint + address, listed.sha256, listed.bytes)
        if not listed.blob:
            raise StageError(
                f"the hub `{self._endpoint}` lists `{path}` of {self._model} without a hash",
                hint="use another hub (HF_ENDPOINT), or give a folder with the model (--model FOLDER)",
            )
        content = self._get(address).content
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        if found != listed.blob:
            raise StageError(
                f"`{path}` of {self._model} has the wrong hash: git blob `{found}`, listed is `{listed.blob}`",
                hint="try again, or use another hub (HF_ENDPOINT)",
            )
        file = HubFile(path, self._endpoint + address, hashlib.sha256(content).hexdigest(), len(content))
        store.add_content(content, file.name, file.sha256)
        return file

    def _address(self, commit: str, path: str) -> str:
        return f"/{self._model}/resolve/{quote(commit)}/{quote(path)}"

    def _object(self, address: str) -> dict[str, Any]:
        try:
            return parse_object(self._get(address).content)
        except ValueError as error:
            raise self._wrong(address, str(error)) from None

    def _wrong(self, address: str, problem: str) -> StageError:
        what = "listing" if address.startswith("/api/") else f"`{address.rpartition('/')[2]}`"
        return StageError(
            f"the hub `{self._endpoint}` sent an invalid {what} of `{self._model}`: {problem}",
            hint=f"look at the answer: curl -L {shlex.quote(self._endpoint + address)}; check HF_ENDPOINT and the proxy",
        )

    def _refusal(self, answer: httpx.Response) -> StageError:
        """Return why the hub refuses: what a token changes depends on whether one was sent, and was accepted.

        Source: hf_raise_for_status in huggingface_hub/utils/_http.py of 2.4.0; without a token, the hub says 401 of models that
        do not exist, too.
        """
        has_token = "Authorization" in self._client.headers
        is_gated = answer.headers.get("X-Error-Code") == "GatedRepo"
        why = "it does not exist, or its licence requires an account"
        hint = "accept the licence on the model's page, and set firstlight_hf_token_file to a file with your token"
        if has_token and answer.status_code == HTTPStatus.UNAUTHORIZED:
            why = "the token in firstlight_hf_token_file is not valid"
            hint = f"make a token with read access ({self._endpoint}/settings/tokens), and write it into that file"
        elif has_token:
            why = "the account of the token may not read it"
            hint = f"accept the licence on {self._endpoint}/{self._model} with that account; the token needs read access to gated models"
        elif is_gated:
            why = "its licence requires an account, and no token is set"
        return StageError(f"the hub refuses `{self._model}` (HTTP {answer.status_code}): {why}", hint=hint)

    def _get(self, address: str) -> httpx.Response:
        import httpx

        try:
            answer = get(self._client, self._endpoint + address)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise HubSilentError(
                f"the hub `{self._endpoint}` does not answer: {error}",
                hint="set HF_ENDPOINT to a mirror that this machine can reach, or give a folder with the model (--model FOLDER)",
            ) from error
        if answer.status_code in {401, 403}:
            raise self._refusal(answer)
        if answer.is_error:
            raise StageError(
                f"the hub `{self._endpoint}` has no `{self._model}` at revision `{self._revision}` (HTTP {answer.status_code})",
                hint="check the spelling of firstlight_model: `org/name` or `org/name@revision`",
            )
        return answer


def _needed(paths: list[str]) -> set[str]:
    """Choose configuration, tokenizer, code, and one format of the weights: safetensors where present, without consolidated copies."""
    kept = {path for path in paths if PurePosixPath(path).suffix in _KEPT or _FURTHER.fullmatch(path)}
    top = {path for path in kept if path.endswith(".safetensors") and "/" not in path}
    if not top:
        return kept
    weights = {path for path in top if not path.startswith("consolidated")} or top
    weights |= set(filter(_FURTHER.fullmatch, kept))
    return {path for path in kept if not path.endswith(WEIGHTS)} | weights


def _token(token_file: str | None) -> str | None:
    """Read and validate a token. An invalid one would be sent in a header and could return in an error text."""
    if token_file is None:
        return None
    try:
        with expand_user(token_file).open("rb") as file:
            content = file.read(_LONGEST_TOKEN + 1).strip()
    except OSError as error:
        raise StageError(
            f"the hub token file `{token_file}` cannot be read: {error.strerror}",
            hint="correct firstlight_hf_token_file",
        ) from error
    if not _TOKEN.fullmatch(content):
        lines = len(content.splitlines())
        why = f"{lines} lines" if lines > 1 else "empty, too long, or with blanks or special characters"
        raise StageError(
            f"`{token_file}` has no valid hub token: {why}",
            hint="set firstlight_hf_token_file to a file with only the token, on one line",
        )
    return register_secret(content.decode("ascii"))
