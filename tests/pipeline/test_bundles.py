"""A walk from a bundle: where it takes its files and its model from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provision.pipeline import Request
from provision.pipeline.walking import walking
from tests.artifacts.test_bundle import make
from tests.artifacts.test_model import write_model


@pytest.fixture
def request_from_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    """A walk on a controller that has the bundle and nothing else: the model's folder is not there."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made = make(tmp_path / "maker", str(write_model(tmp_path / "my-model")))
    monkeypatch.setenv("FIRSTLIGHT_CACHE", str(tmp_path / "cache"))
    inventory = tmp_path / "hosts.yml"
    variables = {"ansible_connection": "local", "firstlight_model": "/nowhere/my-model"}
    inventory.write_text(json.dumps({"all": {"hosts": {"localhost": variables}}}))
    return Request("provision", inventory, None, {}, tmp_path / "logs", bundle=made.path, trust=made.trust)


def test_the_models_folder_is_the_bundles(request_from_bundle: Request, tmp_path: Path) -> None:
    with walking(request_from_bundle) as walk:
        [host] = walk.inventory.hosts
        assert Path(host.settings.model).is_relative_to(tmp_path / "cache")
        assert json.loads((Path(host.settings.model) / "config.json").read_text())["architectures"]
        assert walk.client
        assert walk.client.bundled
        assert walk.client.bundled.name == "site.bundle"
