import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from provision.catalog.index.settings import ClientSettings, read_settings
from provision.core.errors import StageError
from provision.core.models.settings import Settings
from provision.core.models.staged import StagedFile
from provision.features.bundle.reader import Bundled
from provision.phases.stage.candidate_lock import CachedLock, LockedStack, cache_key
from provision.phases.stage.model import adapter_rank, stage_folder, stage_model
from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site
from tests.stage.stacks import make_stack, stage_best

INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
OTHER_INDEX = b'{"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}'
SHARDS = {f"model-0000{number}-of-00002.safetensors": os.urandom(1 << 16) for number in (1, 2)}
MODEL = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "tokenizer.json": b"{}",
    "model.safetensors.index.json": INDEX.encode(),
    **SHARDS,
}
HASHES = {path: hashlib.sha256(content).hexdigest() for path, content in MODEL.items()}


def write_model(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    folder.mkdir()
    for name, content in (files or MODEL).items():
        (folder / name).write_bytes(content)
    return folder


def take(store: Store, model: str | Path, *, refresh: bool = False, **settings: Any) -> tuple[str, list[StagedFile]]:
    """Stage a model with these further settings; return the name of its folder on the host, and its files."""
    return stage_model(Settings(model=str(model), **settings), ClientSettings(), store, refresh=refresh)


# --- a folder


def test_a_folder_is_staged_with_links_followed_and_without_hidden_files(store: Store, tmp_path: Path) -> None:
    folder = write_model(
        tmp_path / "my-model", {name: content for name, content in MODEL.items() if name not in SHARDS}
    )
    blobs = write_model(tmp_path / "blobs", SHARDS)
    for shard in SHARDS:
        (folder / shard).symlink_to(blobs / shard)
    (folder / ".git").mkdir()
    (folder / ".git/config").touch()
    name, files = take(store, folder)
    assert name.startswith("my-model-")
    assert {file.name: file.sha256 for file in files} == HASHES
    assert all(
        file.kind == "model" and Path(file.path).stat().st_size == file.size and not Path(file.path).is_symlink()
        for file in files
    )


def test_a_chat_template_replaces_the_models_own(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", {**MODEL, "chat_template.jinja": b"its own"})
    template = tmp_path / "tools.jinja"
    template.write_text("{{ messages }}")
    own, _ = take(store, folder)
    name, files = take(store, folder, chat_template=str(template))
    [found] = [file for file in files if file.name == "chat_template.jinja"]
    assert (found.path, found.size, name != own) == (str(template), 14, True)
    assert found.sha256 == hashlib.sha256(b"{{ messages }}").hexdigest()


def write_adapter(folder: Path, **config: object) -> Path:
    """Write what training leaves: the adapter, and files that no server reads."""
    names = {"adapter_model.safetensors": b"w", "optimizer.pt": b"o", "README.md": b"r"}
    return write_model(folder, {"adapter_config.json": json.dumps(config).encode(), **names})


def test_adapters_are_files_of_the_model(store: Store, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", {**MODEL, "optimizer.pt": b"not an adapter's"})
    (model / "lora/support").mkdir(parents=True)
    (model / "lora/support/adapter_config.json").write_text("another adapter, which the model brings")
    adapter = write_adapter(tmp_path / "support", r=8, rank_pattern={"q_proj": 24})
    own, plain = take(store, model)
    name, files = take(store, model, lora={"support": str(adapter)})
    found = {file.name: file for file in files}
    assert (len(found), name != own) == (len(files), True)
    assert {*found} - {file.name for file in plain} == {"lora/support/adapter_model.safetensors"}
    config = found["lora/support/adapter_config.json"]
    assert (config.path, adapter_rank(config)) == (str(adapter / "adapter_config.json"), 24)
    (adapter / "adapter_model.safetensors").write_bytes(b"trained further")
    assert take(store, model, lora={"support": str(adapter)})[0] != name


def test_a_draft_model_is_files_of_the_model(store: Store, tmp_path: Path) -> None:
    model, draft = write_model(tmp_path / "m"), write_model(tmp_path / "m-eagle3")
    own, plain = take(store, model)
    speculative = {"model": str(draft), "num_speculative_tokens": 3}
    name, files = take(store, model, speculative=speculative)
    assert name != own
    assert [*files] == [
        *plain,
        *(file.model_copy(update={"name": f"draft/m-eagle3/{file.name}"}) for file in stage_folder(draft, store)),
    ]
    (draft / "config.json").unlink()
    with pytest.raises(StageError, match=re.escape(f"model `{draft}` lacks config.json")):
        take(store, model, speculative=speculative)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"adapter_config.json": b'{"r": 8}'}, "lacks adapter_model.safetensors"),
        (MODEL, "lacks adapter_config.json, adapter_model.safetensors"),
        ({"adapter_config.json": b'{"peft_type": "IA3"}', "adapter_model.bin": b"w"}, "has no rank `r`"),
        ({"adapter_config.json": b"[", "adapter_model.bin": b"w"}, "has no rank `r`"),
        ({"adapter_config.json": b'{"r": 8, "use_dora": true}', "adapter_model.bin": b"w"}, "has use_dora, which"),
        (
            {"adapter_config.json": b'{"r": 8, "modules_to_save": ["score", "lm_head"]}', "adapter_model.bin": b"w"},
            "has `lm_head` saved, which vLLM does not serve",
        ),
    ],
)
def test_what_is_no_adapter_is_refused(store: Store, tmp_path: Path, files: dict[str, bytes], text: str) -> None:
    model, adapter = write_model(tmp_path / "m"), write_model(tmp_path / "a", files)
    with pytest.raises(StageError, match=re.escape(text)):
        take(store, model, lora={"x": str(adapter)})


def test_the_name_of_the_folder_on_the_host_changes_with_the_content(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    first, _ = take(store, folder)
    assert take(store, folder)[0] == first
    (folder / "tokenizer.json").write_text("[]")
    assert take(store, folder)[0] != first


def test_hashes_are_cached_and_a_changed_file_is_read_again(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    before = {file.name: file.sha256 for file in stage_folder(folder, store)}
    shard = folder / next(iter(SHARDS))
    stat = shard.stat()
    shard.write_bytes(b"x" * stat.st_size)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert {file.name: file.sha256 for file in stage_folder(folder, store)} == before
    os.utime(shard)
    assert {file.name for file in stage_folder(folder, store) if file.sha256 != before[file.name]} == {shard.name}


@pytest.mark.parametrize(
    ("left", "lacking"),
    [
        (MODEL.keys() - {"config.json"}, "config.json"),
        (MODEL.keys() - {"model-00002-of-00002.safetensors"}, "model-00002-of-00002.safetensors"),
        ({"config.json"}, "weights (*.safetensors)"),
    ],
)
def test_an_incomplete_folder_is_refused_with_the_missing_files(
    store: Store, tmp_path: Path, left: set[str], lacking: str
) -> None:
    folder = write_model(tmp_path / "m", {name: MODEL[name] for name in left})
    with pytest.raises(StageError, match=f"lacks {re.escape(lacking)}"):
        take(store, folder)


def test_an_index_of_weights_in_another_format_is_passed_over(store: Store, tmp_path: Path) -> None:
    files = {**MODEL, "pytorch_model.bin.index.json": OTHER_INDEX}
    assert {file.name for file in take(store, write_model(tmp_path / "m", files))[1]} == {*files}


def test_an_invalid_index_and_a_broken_link_are_named(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", {**MODEL, "model.safetensors.index.json": b"[]"})
    with pytest.raises(StageError, match="is not an index of shards"):
        take(store, folder)
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StageError, match="is a broken link"):
        take(store, folder)


def test_a_link_to_a_folder_is_named_and_none_of_its_files_is_left_out_silently(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", MODEL)
    (folder / "1_Pooling").symlink_to(tmp_path)
    with pytest.raises(StageError, match="1_Pooling` is a link to a folder"):
        take(store, folder)


@pytest.mark.parametrize("model", ["/no/such/folder", "./here", "word", "org/", "a/b/c"])
def test_a_text_that_is_neither_a_folder_nor_a_hub_id_is_refused(store: Store, model: str) -> None:
    with pytest.raises(StageError, match="is neither a folder on this machine nor a hub id"):
        take(store, model)


# --- a hub

LISTING = "/api/models/org/tiny/revision/main"


def offer(site: Site, files: dict[str, bytes], *, commit: str = "c0ffee", revision: str = "main") -> None:
    """The hub's own format: large files listed with their sha256, the others with their git blob hash."""
    rows = []
    for name, content in files.items():
        row = {
            "rfilename": name,
            "size": len(content),
            "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
        }
        if name.endswith((".safetensors", ".bin")):
            row["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        rows.append(row)
        site.content[f"/org/tiny/resolve/{commit}/{name}"] = content
    listing = {"id": "org/tiny", "sha": commit, "siblings": rows}
    site.content[f"/api/models/org/tiny/revision/{revision}"] = json.dumps(listing).encode()


@contextmanager
def listed(hub: Site) -> Iterator[list[dict[str, Any]]]:
    """The rows of the hub's listing, which a test may change."""
    listing = json.loads(hub.content[LISTING])
    yield listing["siblings"]
    hub.content[LISTING] = json.dumps(listing).encode()


@pytest.fixture
def hub(site: Site, bare_client: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    others = {
        "pytorch_model-00001-of-00001.bin": b"the same in another format",
        "original/consolidated.safetensors": b"and again",
    }
    offer(site, {**MODEL, "README.md": b"# tiny", **others})
    return site


def test_a_hub_id_is_fetched_once_with_one_format_of_its_weights(hub: Site, store: Store) -> None:
    name, files = take(store, "org/tiny")
    assert name.startswith("tiny-")
    assert {file.name: Path(file.path).read_bytes() for file in files} == MODEL
    hub.close()
    assert take(store, "org/tiny") == (name, files)


def test_two_equal_files_of_a_hub_model_are_fetched_once(hub: Site, store: Store) -> None:
    files = {"a.safetensors": b"equal", "b.safetensors": b"equal", "1_Pooling/config.json": b"{}"}
    offer(hub, {**MODEL, **files})
    taken = take(store, "org/tiny")
    assert files.items() <= {file.name: Path(file.path).read_bytes() for file in taken[1]}.items()
    hub.close()
    assert take(store, "org/tiny") == taken


def test_the_index_of_a_format_that_is_not_fetched_is_passed_over(hub: Site, store: Store) -> None:
    others = {"pytorch_model-00001-of-00001.bin": b"not fetched", "pytorch_model.bin.index.json": OTHER_INDEX}
    offer(hub, {**MODEL, **others})
    assert {file.name for file in take(store, "org/tiny")[1]} == {*MODEL, "pytorch_model.bin.index.json"}


def test_further_layers_of_an_embedding_model_are_fetched(hub: Site, store: Store) -> None:
    layers = {"modules.json": b"[]", "2_Dense/model.safetensors": b"dense", "sparse_linear.pt": b"sparse"}
    offer(hub, {**MODEL, **layers, "0_Transformer/pytorch_model.bin": b"a copy", "optimizer.pt": b"not read"})
    assert {file.name for file in take(store, "org/tiny")[1]} == {*MODEL, *layers}


def test_weights_that_hosts_have_are_not_fetched(hub: Site, store: Store) -> None:
    name, files = take(store, "org/tiny", model_on_host="/mnt/models/tiny")
    assert {file.name: file.sha256 for file in files} == HASHES
    assert {file.name for file in files if not file.path} == set(SHARDS)
    assert not any(shard in path for path in hub.requests for shard in SHARDS)
    sent, fetched = take(store, "org/tiny")
    assert sent != name, "a folder of links is another one"
    assert all(Path(file.path).is_file() for file in fetched)


@pytest.mark.parametrize("source", ["host", "path"])
def test_weights_that_hosts_get_themselves_are_not_fetched_and_named_by_their_place_at_the_hub(
    hub: Site, store: Store, source: Literal["host", "path"]
) -> None:
    name, files = take(store, "org/tiny", source={"model": source})
    assert {file.name for file in files if not file.path} == set(SHARDS)
    assert {file.hub_path for file in files} == {f"org/tiny/resolve/c0ffee/{path}" for path in MODEL}
    assert not any(shard in path for path in hub.requests for shard in SHARDS)
    assert take(store, "org/tiny")[0] == name, "another source is no other model"


@pytest.mark.parametrize("source", ["host", "path"])
def test_weights_of_a_bundle_are_there_for_hosts_that_would_get_them_themselves(
    hub: Site, store: Store, source: Literal["host", "path"]
) -> None:
    name, files = take(store, "org/tiny")
    hub.close()
    settings, bundle = Settings(model="org/tiny", source={"model": source}), Bundled("site.bundle", "2026-01-02", ())
    assert stage_model(settings, ClientSettings(bundled=bundle), store) == (name, files)
    assert all(Path(file.path).is_file() for file in files)


def test_an_adapter_of_a_hub_is_fetched_where_hosts_get_the_weights_themselves(hub: Site, store: Store) -> None:
    files = {"adapter_config.json": b'{"r": 8}', "adapter_model.safetensors": b"adapter", "tokenizer.json": b"{}"}
    offer(hub, files, commit="ada", revision="tuned")
    settings: dict[str, Any] = {"source": {"model": "host"}, "lora": {"support": "org/tiny@tuned"}}
    name, staged = take(store, "org/tiny", **settings)
    found = {file.name: file for file in staged if file.name.startswith("lora/")}
    assert {*found} == {"lora/support/adapter_config.json", "lora/support/adapter_model.safetensors"}
    weights = found["lora/support/adapter_model.safetensors"]
    assert Path(weights.path).read_bytes() == b"adapter"
    assert weights.hub_path == "org/tiny/resolve/ada/adapter_model.safetensors"
    hub.close()
    assert take(store, "org/tiny", **settings) == (name, staged)


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "config.json"])
def test_a_wrong_file_is_refused_large_or_small(hub: Site, store: Store, name: str) -> None:
    path = f"/org/tiny/resolve/c0ffee/{name}"
    hub.content[path] = b"x" * len(hub.content[path])
    with pytest.raises(StageError, match=f"`{name}`.* has the wrong hash"):
        take(store, "org/tiny")


def test_a_new_revision_is_found_on_request(hub: Site, store: Store) -> None:
    first, _ = take(store, "org/tiny")
    offer(hub, {**MODEL, "tokenizer.json": b"[]"}, commit="decaf")
    assert take(store, "org/tiny")[0] == first
    assert take(store, "org/tiny", refresh=True)[0] != first


def test_a_revision_is_fetched_by_name(hub: Site, store: Store) -> None:
    offer(hub, MODEL, commit="decaf", revision="v1.0")
    _, files = take(store, "org/tiny@v1.0")
    assert hub.requests["/org/tiny/resolve/decaf/config.json"] == 1
    assert len(files) == len(MODEL)


def test_models_that_were_tried_before_make_room_where_the_lock_is_known(hub: Site, tmp_path: Path) -> None:
    stack, store = make_stack(None, None), Store(tmp_path / "cache", limit_bytes=1)
    known = CachedLock(locked=LockedStack(wheels=(), unpacked_bytes=0))
    store.put("locks", cache_key(stack, read_settings()), known.model_dump(mode="json"))
    offer(hub, {**MODEL, "model-00001-of-00002.safetensors": b"tuned"}, commit="decaf", revision="tuned")
    first, second = (stage_best(store, stack, settings=Settings(model=f"org/tiny{at}")) for at in ("", "@tuned"))
    assert (first.from_cache, second.from_cache) == (True, True)
    assert all(Path(file.path).is_file() for file in second.files)
    [gone] = [file.name for file in first.files if not Path(file.path).exists()]
    assert gone == "model-00001-of-00002.safetensors"


def test_a_gated_model_needs_a_token_in_a_file(hub: Site, store: Store, tmp_path: Path) -> None:
    hub.faults.wants = "Bearer hf_sesame"
    with pytest.raises(StageError, match=r"refuses `org/tiny` \(HTTP 401\)") as caught:
        take(store, "org/tiny")
    assert "firstlight_hf_token_file" in (caught.value.hint or "")
    token = tmp_path / "token"
    token.write_text("hf_sesame\n")
    _, files = take(store, "org/tiny", hf_token_file=str(token))
    assert len(files) == len(MODEL)
    assert not [path for path in store.root.rglob("*.json") if "hf_sesame" in path.read_text(errors="replace")]


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (None, ("401): its licence requires an account, and no token is set", "firstlight_hf_token_file")),
        ("hf_expired", ("401): the token in firstlight_hf_token_file is not valid", "/settings/tokens")),
        ("hf_other", ("403): the account of the token may not read it", "/org/tiny with that account")),
    ],
)
def test_why_a_hub_refuses_is_told_before_anything_is_fetched(
    hub: Site, store: Store, tmp_path: Path, token: str | None, said: tuple[str, str]
) -> None:
    hub.faults.accepted = "Bearer hf_sesame"
    hub.faults.wants = "Bearer hf_sesame" if token == "hf_expired" else None
    file = tmp_path / "token"
    file.write_text(token or "")
    with pytest.raises(StageError) as caught:
        take(store, "org/tiny", hf_token_file=str(file) if token else None)
    assert caught.value.text == f"the hub refuses `org/tiny` (HTTP {said[0]}"
    assert said[1] in (caught.value.hint or "")
    assert not [path for path in hub.sent if "/resolve/" in path and hub.sent[path]]


@pytest.mark.usefixtures("hub")
def test_a_token_file_that_cannot_be_read_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"hub token file .* cannot be read: No such file"):
        take(store, "org/tiny", hf_token_file=str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("hf_canary\nSECOND=canary\n", "2 lines"),
        ("two canary", "special characters"),
        ("hf_canary\x00", "special characters"),
        ("canaryä", "special characters"),
        ("", "empty"),
        ("canary" * 1000, "too long"),
    ],
)
def test_an_invalid_token_is_neither_sent_nor_shown(
    hub: Site, store: Store, tmp_path: Path, content: str, why: str
) -> None:
    token = tmp_path / "token"
    token.write_text(content)
    with pytest.raises(StageError, match="has no valid hub token") as caught:
        take(store, "org/tiny", hf_token_file=str(token))
    assert why in caught.value.text
    assert "canary" not in caught.value.render()
    assert not hub.requests


@pytest.mark.usefixtures("hub")
def test_an_unknown_model_and_a_silent_hub_have_different_errors(
    store: Store, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    with pytest.raises(StageError, match=r"has no `org/absent` at revision `main` \(HTTP 404\)"):
        take(store, "org/absent")
    monkeypatch.setenv("HF_ENDPOINT", silent)
    with pytest.raises(StageError, match=rf"the hub `{silent}` does not answer") as caught:
        take(store, "org/tiny")
    assert "HF_ENDPOINT" in (caught.value.hint or "")


def test_a_model_larger_than_the_disk_is_refused_before_it_is_fetched(hub: Site, store: Store) -> None:
    with listed(hub) as rows:
        for row in rows:
            row["size"] = 1 << 50
    with pytest.raises(StageError, match=r"model needs .* TiB in"):
        take(store, "org/tiny")
    assert not [path for path in hub.requests if path.endswith(".safetensors")]


def test_files_that_are_here_need_no_space(hub: Site, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = take(store, "org/tiny")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert take(store, "org/tiny", refresh=True) == first
    assert all(hub.requests[f"/org/tiny/resolve/c0ffee/{shard}"] == 1 for shard in SHARDS)


@pytest.mark.parametrize("place", ["absolute", "above", "no digest"])
def test_a_digest_from_a_hostile_hub_names_no_path_of_this_machine(
    hub: Site, store: Store, tmp_path: Path, place: str
) -> None:
    victim = tmp_path / "precious" / "victim.json"
    victim.parent.mkdir()
    victim.write_text("mine")
    digest = {"absolute": str(victim.parent), "above": f"../../../{victim.parent.name}", "no digest": "A" * 64}[place]
    with listed(hub) as rows:
        rows.append({"rfilename": "victim.json", "lfs": {"sha256": digest, "size": 4}})
    with pytest.raises(StageError, match="is not a sha256"):
        take(store, "org/tiny")
    assert victim.read_text() == "mine"
    assert [path.name for path in victim.parent.iterdir()] == ["victim.json"]


@pytest.mark.parametrize("name", ["/etc/x.json", "../x.json", "a/../../x.json", "a//x.json", "x\n.json", "..\\x.json"])
def test_a_file_name_from_a_hostile_hub_stays_in_the_models_folder(hub: Site, store: Store, name: str) -> None:
    with listed(hub) as rows:
        rows.append({"rfilename": name, "lfs": {"sha256": "0" * 64, "size": 4}})
    with pytest.raises(StageError, match="unsafe file name"):
        take(store, "org/tiny")
