"""A model's shape without its weights: of a folder from the headers, of a hub id from the small files alone."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from provision.core.errors import ModelError, StageError
from provision.core.models.settings import Settings
from provision.core.tables import rows_of
from provision.phases.plan.fit.shape import Shape
from provision.phases.plan.fit.weights import KNOWN
from provision.phases.stage import model_description
from provision.phases.stage.model_description import describe, describe_all, try_sources
from provision.phases.stage.model_hub import model_key
from provision.phases.stage.wheelhouse import Store
from tests.fit.models import LLAMA_8B, write_model
from tests.stage.site import Site

COMMIT = "0123456789abcdef0123456789abcdef01234567"
API = "/api/models/org/model/revision/main"
CONFIG = f"/org/model/resolve/{COMMIT}/config.json"
SIZE = 16_060_522_496
LISTING: dict[str, Any] = {
    "sha": COMMIT,
    "siblings": [
        {"rfilename": "config.json", "size": 700, "blobId": hashlib.sha1(b"its content").hexdigest()},
        {"rfilename": "model.safetensors", "size": SIZE, "lfs": {"sha256": "0" * 64, "size": SIZE}},
        {"rfilename": "consolidated.00.pth", "size": SIZE},
    ],
}

pytestmark = pytest.mark.usefixtures("bare_client")


def shape(model: str | Path, store: Store) -> Shape:
    found = describe(Settings(model=str(model)), store)
    assert found
    return found


@pytest.fixture
def hub(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    site.content |= {API: json.dumps(LISTING).encode(), CONFIG: json.dumps(LLAMA_8B).encode()}
    return site


def test_the_built_in_model_has_no_description(store: Store) -> None:
    assert describe(Settings(model="builtin"), store) is None


def test_a_folder_is_described_from_its_headers(tmp_path: Path, store: Store) -> None:
    headers = {"model.layers.31.x": ("BF16", [64], 2), "lm_head": ("F32", [2], 4)}
    folder = write_model(tmp_path / "model", LLAMA_8B, headers)
    assert shape(folder, store).weights.by_dtype == (("BF16", 128), ("F32", 8))


def test_a_folder_and_a_hub_id_tell_the_family_by_their_name(tmp_path: Path, hub: Site, store: Store) -> None:
    folder = write_model(tmp_path / "Llama-3.1-8B-tuned", LLAMA_8B, {"x": ("BF16", [64], 2)})
    link = tmp_path / "current"
    link.symlink_to(folder)
    assert shape(link, store).match.family == "Llama 3.1 to 3.3"
    of_hub = shape("org/model", store)
    assert (of_hub.match.family, of_hub.match.possible) == (None, ("Llama 3.1 to 3.3",))


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_folder_whose_configuration_is_broken_is_named(tmp_path: Path, store: Store, content: str) -> None:
    folder = write_model(tmp_path / "model", LLAMA_8B, {"x": ("BF16", [64], 2)})
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json`"):
        shape(folder, store)


def test_only_the_small_files_of_a_hub_id_are_fetched_once(hub: Site, store: Store) -> None:
    found = shape("org/model", store)
    assert found.architecture == "LlamaForCausalLM"
    assert found.weights.by_dtype == (("BF16", SIZE),)
    assert set(hub.requests) == {API, CONFIG}
    before = hub.requests.total()
    hub.close()
    assert shape("org/model", store) == found
    assert hub.requests.total() == before


def test_the_hubs_own_count_of_weights_is_preferred(hub: Site, store: Store) -> None:
    counted = {"parameters": {"F8_E4M3": 1000, "BF16": 10}, "total": 1010}
    hub.content[API] = json.dumps(LISTING | {"safetensors": counted}).encode()
    assert shape("org/model", store).weights.by_dtype == (("F8_E4M3", 1000), ("BF16", 20))


def test_a_count_of_unpacked_numbers_gives_way_to_the_size_of_the_files(hub: Site, store: Store) -> None:
    config = LLAMA_8B | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    counted = {"parameters": {"I32": 8_000_000_000, "F16": 1_000_000_000}}
    hub.content |= {API: json.dumps(LISTING | {"safetensors": counted}).encode(), CONFIG: json.dumps(config).encode()}
    assert shape("org/model", store).weights.total == SIZE


def test_a_quantisation_in_a_file_of_its_own_is_read(tmp_path: Path, hub: Site, store: Store) -> None:
    content = json.dumps({"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}).encode()
    rows = [*LISTING["siblings"], {"rfilename": "hf_quant_config.json", "size": len(content), "blobId": "0"}]
    hub.content[API] = json.dumps(LISTING | {"siblings": rows}).encode()
    hub.content[CONFIG.replace("config.json", "hf_quant_config.json")] = content
    folder = write_model(tmp_path / "model", LLAMA_8B, {"x": ("U8", [64], 1)})
    (folder / "hf_quant_config.json").write_bytes(content)
    for found in (shape("org/model", store), shape(folder, store)):
        assert (found.quantization, found.kernel_format, found.cache_dtype) == ("modelopt", "nvfp4", "fp8")
    (folder / "config.json").write_text(json.dumps(LLAMA_8B | {"quantization_config": {"quant_method": "fp8"}}))
    assert shape(folder, store).quantization == "fp8"


def test_a_hub_that_does_not_answer_is_named_with_a_hint(hub: Site, store: Store) -> None:
    hub.close()
    with pytest.raises(StageError, match=f"the hub `{hub.url}` does not answer") as caught:
        shape("org/model", store)
    assert "give a folder with the model" in (caught.value.hint or "")


@pytest.mark.usefixtures("hub")
def test_a_draft_model_is_described_unless_its_size_cannot_be_told(store: Store, tmp_path: Path) -> None:
    draft = write_model(tmp_path / "draft", {**LLAMA_8B, "num_hidden_layers": 1}, {"x": ("BF16", [64], 2)})
    given = Settings(model="org/model", speculative={"model": str(draft), "num_speculative_tokens": 3})
    found = describe_all(given, store)
    assert {source: each.layers for source, each in found.items()} == {"org/model": 32, str(draft): 1}
    (draft / "config.json").write_text('{"model_type": "medusa", "hidden_size": 64}')
    assert [*describe_all(given, store)] == ["org/model"]
    assert describe_all(Settings(model="builtin"), store) == {}


def test_what_a_plan_does_not_read_is_tried_once_before_a_download(hub: Site, store: Store, tmp_path: Path) -> None:
    hub.content["/api/models/org/tone/revision/v2"] = json.dumps(
        {"sha": COMMIT, "siblings": [{"rfilename": "adapter_config.json", "size": 2, "blobId": "0"}]}
    ).encode()
    file = f"/org/tone/resolve/{COMMIT}/adapter_config.json"
    hub.content[file] = b"{}"
    (tmp_path / "token").write_text("hf_other")
    given = Settings(model="org/model", lora={"tone": "org/tone@v2", "own": str(tmp_path)})
    tried: set[str] = set()
    for _ in range(2):
        try_sources(given, store, tried)
    assert (tried, hub.requests[file], hub.requests[CONFIG]) == ({"org/tone@v2"}, 1, 0)
    describe(given, store)
    hub.faults.accepted = "Bearer hf_sesame"
    with pytest.raises(StageError, match="refuses `org/tone`"):
        try_sources(given, store, set())
    with pytest.raises(StageError, match=r"refuses `org/model` \(HTTP 403\)"):
        try_sources(given.model_copy(update={"hf_token_file": str(tmp_path / "token")}), store, set())
    hub.close()
    try_sources(given, store, set())


@pytest.mark.slow
def test_a_well_known_model_is_described_without_the_hub(hub: Site, store: Store) -> None:
    hub.close()
    rows = rows_of(model_description._KNOWN_MODELS, "model", model_description.KnownModel)
    assert len({row.id for row in rows}) == len(rows) == 60
    for row in rows:
        found = shape(f"{row.id}@main", store)
        assert (found.weights.source, found.layers) == (KNOWN, row.config["num_hidden_layers"]), row.id
        assert row.source, row.id
    llama = shape("meta-llama/Llama-3.1-8B-Instruct", store)
    assert (llama.weights.total, llama.kv_heads, llama.head_size) == (2 * 8030261248, 8, 128)
    assert store.get("described", model_key("Qwen/Qwen3-8B")) is None, "the hub is asked again later"
