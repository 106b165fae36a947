"""Invalid answers of a hub or a proxy: each is one error with its values, and nothing is stored."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.catalog.index import http_client
from provision.catalog.index.settings import ClientSettings
from provision.core.errors import FirstlightError, ModelError, StageError
from provision.core.models.settings import Settings
from provision.phases.plan.fit.shape import Shape, shape_of
from provision.phases.plan.fit.weights import counted
from provision.phases.stage import download, model_hub
from provision.phases.stage.model_description import describe
from provision.phases.stage.model_hub import HubFile, model_key
from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site
from tests.stage.test_model import LISTING, MODEL, SHARDS, listed, offer, take
from tests.strange import JSON

CONFIG = "/org/tiny/resolve/c0ffee/config.json"
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 256,
}


@pytest.fixture
def hub(site: Site, bare_client: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    offer(site, {**MODEL, "config.json": json.dumps(LLAMA).encode()})
    return site


def stage(store: Store) -> None:
    take(store, "org/tiny")


def look(store: Store) -> Shape:
    found = describe(Settings(model="org/tiny"), store)
    assert found
    return found


ANSWERS = {
    "a login page": b"<html><form action=/login></form></html>",
    "no object": b"[1, 2]",
    "siblings that are null": b'{"sha": "c0ffee", "siblings": null}',
    "lists of lists": b"[" * 100_000,
    "no text": bytes(range(256)),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_invalid_listing_is_named(hub: Site, store: Store, answer: bytes) -> None:
    hub.content[LISTING] = answer
    for act in (stage, look):
        with pytest.raises(StageError, match="sent an invalid listing of `org/tiny`") as caught:
            act(store)
        assert f"curl -L '{hub.url}{LISTING}?blobs=true'" in (caught.value.hint or "")


def test_a_file_without_a_hash_is_not_fetched(hub: Site, store: Store) -> None:
    with listed(hub) as rows:
        for row in rows:
            row.pop("blobId")
    with pytest.raises(StageError, match=r"lists `config\.json` of org/tiny without a hash"):
        stage(store)
    assert not hub.requests[CONFIG]


BAD_CONFIGS: dict[str, tuple[bytes, type[FirstlightError]]] = {
    "no JSON": (b"<html>", StageError),
    "a list": (b"[]", StageError),
    "without sizes": (b"{}", ModelError),
    "with a billion layers": (json.dumps(LLAMA | {"num_hidden_layers": 10**9}).encode(), ModelError),
}


@pytest.mark.parametrize(("config", "kind"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_an_invalid_config_is_named_and_not_stored(
    hub: Site, store: Store, config: bytes, kind: type[FirstlightError]
) -> None:
    good = hub.content[CONFIG]
    hub.content[CONFIG] = config
    with pytest.raises(kind, match=r"config\.json"):
        look(store)
    hub.content[CONFIG] = good
    assert look(store).layers == LLAMA["num_hidden_layers"]


@pytest.mark.parametrize("kept", [{"config": "x"}, {"config": {}, "parameters": {}, "bytes": 5}])
@pytest.mark.usefixtures("hub")
def test_an_invalid_file_stored_by_an_earlier_release_is_requested_again(store: Store, kept: dict[str, Any]) -> None:
    store.put("described", model_key("org/tiny"), kept)
    assert look(store).heads == LLAMA["num_attention_heads"]


def test_an_endless_answer_is_abandoned(hub: Site, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "MOST_BYTES", 1 << 20)
    hub.faults.endless[LISTING] = 0.0
    with pytest.raises(StageError, match=r"does not answer: the answer has more than 1\.0 MiB"):
        stage(store)


def test_an_answer_that_arrives_byte_by_byte_is_abandoned(
    hub: Site, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "WHOLE_S", 0.1)
    hub.faults.endless[LISTING] = 0.02
    with pytest.raises(StageError, match=r"does not answer: the answer was not whole within 0\.1 s"):
        stage(store)


def test_an_endless_large_file_is_abandoned_and_removed(hub: Site, store: Store) -> None:
    shard = next(iter(SHARDS))
    hub.faults.endless[f"/org/tiny/resolve/c0ffee/{shard}"] = 0.0
    with pytest.raises(StageError, match=rf"`{shard}` is too long: 127\.0\.0\.1 sends more than 64\.0 KiB"):
        stage(store)
    assert not [path for path in store.root.rglob("*.part") if shard in path.name]


def test_a_very_slow_large_file_is_abandoned(site: Site, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SLOW_S", 0.05)
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.0)
    site.content["/shard"] = b"x"
    site.faults.endless["/shard"] = 0.02
    file = HubFile("shard", f"{site.url}/shard", "0" * 64, 1 << 20)
    with pytest.raises(
        StageError, match=r"`shard` could not be fetched from 127\.0\.0\.1: only \d+ bytes arrived in 0 s"
    ):
        download.fetch_all(store, [file], lambda: http_client.open_client(ClientSettings()))


@given(answer=st.dictionaries(st.sampled_from(["sha", "siblings", "safetensors", "x"]), JSON))
def test_any_hub_listing_is_read_or_refused(answer: dict[str, Any]) -> None:
    try:
        found = model_hub.HubRevision.model_validate(answer)
    except ValueError:
        return
    assert len(found.files) == len(answer["siblings"])


KEYS = [*LLAMA, "rope_scaling", "layer_types", "text_config", "sliding_window", "quantization_config"]


@given(config=st.dictionaries(st.sampled_from(KEYS), JSON))
def test_any_config_is_read_or_refused(config: dict[str, Any]) -> None:
    try:
        shape = shape_of(LLAMA | config, counted({"BF16": 1 << 20}, "a test"))
    except ModelError:
        return
    assert shape.layers > 0
