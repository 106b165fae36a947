"""Where a checkout and an installed product have their files, and those of their user; temporary folders."""

from pathlib import Path

import pytest

from provision.core import folders
from provision.core.scratch import scratch_folder

ROOT = Path(__file__).resolve().parents[2]
TEXT = "run `./firstlight`; hint: ./firstlight plan; docs/guides/tool.md, https://x/docs/a.md"
XDG = {"XDG_STATE_HOME": "/state", "XDG_CONFIG_HOME": "/config"}


def test_a_checkout_has_its_files_beside_the_packages() -> None:
    assert folders.product_path("playbooks/site.yml") == ROOT / "playbooks/site.yml"
    assert folders.product_path("verify") == ROOT / "verify"
    assert folders.logs_folder(XDG) == ROOT / "logs"
    assert folders.default_inventory(XDG) == ROOT / "inventory/local"
    assert folders.as_typed(TEXT) == TEXT


def test_an_installed_product_writes_to_the_folders_of_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "IS_INSTALLED", True)
    monkeypatch.setattr(folders, "_INSTALLED", Path("/package/_files"))
    assert folders.product_path("playbooks") == Path("/package/_files/playbooks")
    assert folders.product_path("verify") == ROOT / "verify"
    assert folders.logs_folder(XDG) == Path("/state/firstlight/logs")
    assert folders.logs_folder({**XDG, "FIRSTLIGHT_LOGS": "/logs"}) == Path("/logs")
    assert folders.logs_folder({}) == Path.home() / ".local/state/firstlight/logs"
    pages = "/package/_files/docs"
    assert (
        folders.as_typed(TEXT)
        == f"run `firstlight`; hint: firstlight plan; {pages}/guides/tool.md, https://x/docs/a.md"
    )
    own = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert folders.default_inventory(own) == Path("/package/_files/inventory/local")
    (tmp_path / "firstlight/inventory").mkdir(parents=True)
    assert folders.default_inventory(own) == tmp_path / "firstlight/inventory"


def test_folders_of_the_user_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Playbooks run elsewhere, and locks have addresses of files."""
    monkeypatch.chdir(tmp_path)
    assert folders.logs_folder({"FIRSTLIGHT_LOGS": "runs"}) == tmp_path / "runs"
    assert folders.logs_folder({"FIRSTLIGHT_LOGS": "~/runs"}) == Path.home() / "runs"
    assert folders.cache_folder({"FIRSTLIGHT_CACHE": "cache"}) == tmp_path / "cache"


def test_a_temporary_folder_is_private_and_removed_with_its_block() -> None:
    with scratch_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").touch()
    assert not folder.exists()
