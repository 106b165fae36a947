"""How a model's files get into their folder: the program of the role, tried alone."""

from __future__ import annotations

import hashlib
import json
import subprocess
from typing import Any

from tests.install.conftest import Site
from tests.install.scripts import run_python


def take(site: Site, files: list[dict[str, Any]], mode: str = "take") -> subprocess.CompletedProcess[str]:
    folder = str(site.prefix / "models" / "mine")
    return run_python("model/files/take_files.py", mode, str(site.incoming), folder, stdin=json.dumps(files))


def test_model_files_are_moved_once_with_their_hashes_checked(site: Site) -> None:
    content = b'{"model_type": "llama"}'
    files = [{"name": "config.json", "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}]
    site.incoming.mkdir(parents=True)
    (site.incoming / "config.json").write_bytes(content)
    assert json.loads(take(site, files, "look").stdout)["changed"] == ["config.json"]
    assert json.loads(take(site, files).stdout)["changed"] == ["config.json"]
    assert (site.prefix / "models" / "mine" / "config.json").read_bytes() == content
    assert not (site.incoming / "config.json").exists()
    assert json.loads(take(site, files).stdout)["changed"] == []


def test_a_model_file_with_another_hash_is_refused(site: Site) -> None:
    site.incoming.mkdir(parents=True)
    (site.incoming / "config.json").write_bytes(b"{}")
    done = take(site, [{"name": "config.json", "sha256": "0" * 64, "size": 2}])
    assert done.returncode == 1
    assert f"config.json has SHA-256 {hashlib.sha256(b'{}').hexdigest()}, not {'0' * 64}" in done.stderr
    assert not (site.prefix / "models" / "mine" / "config.json").exists()


def test_a_file_whose_move_was_cut_off_is_taken_up(site: Site) -> None:
    folder = site.prefix / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json.part").write_bytes(b"{}")
    done = take(site, [{"name": "config.json", "sha256": hashlib.sha256(b"{}").hexdigest(), "size": 2}])
    assert done.returncode == 0, done.stderr
    assert (folder / "config.json").read_bytes() == b"{}"


def held(site: Site, content: bytes) -> list[dict[str, Any]]:
    """A model of one file that was taken, with the state that the host reached."""
    site.incoming.mkdir(parents=True, exist_ok=True)
    (site.incoming / "weights").write_bytes(content)
    files = [{"name": "weights", "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}]
    assert take(site, files).returncode == 0
    (site.prefix / "state.json").write_text("{}")
    return files


def test_the_files_are_listed_next_to_their_folder(site: Site) -> None:
    held(site, b"123456789")
    assert (site.prefix / "models" / "mine.manifest.txt").read_text() == "cbf43926 9 weights\n"


def test_a_damaged_file_of_the_same_size_is_named_and_the_next_run_sends_it(site: Site) -> None:
    files = held(site, b"123456789")
    weights = site.prefix / "models" / "mine" / "weights"
    weights.write_bytes(b"123456780")
    done = take(site, files)
    assert "model file weights is damaged: it has SHA-256" in done.stderr
    assert not (site.prefix / "state.json").exists()
    (site.incoming / "weights").write_bytes(b"123456789")
    assert json.loads(take(site, files).stdout)["changed"] == ["weights"]
    assert weights.read_bytes() == b"123456789"


def test_a_file_that_nobody_sent_is_removed(site: Site) -> None:
    files = held(site, b"123456789")
    added = site.prefix / "models" / "mine" / "generation_config.json"
    added.write_text("{}")
    assert json.loads(take(site, files).stdout)["changed"] == ["generation_config.json"]
    assert not added.exists()
    assert json.loads(take(site, files).stdout)["changed"] == []


def test_a_file_that_was_only_touched_is_no_change(site: Site) -> None:
    files = held(site, b"123456789")
    (site.prefix / "models" / "mine" / "weights").touch()
    assert json.loads(take(site, files).stdout)["changed"] == []
    assert (site.prefix / "state.json").exists()


def test_a_file_that_was_sent_again_is_taken_though_the_old_one_looks_right(site: Site) -> None:
    """As where its content went bad on the disk, and nobody wrote it."""
    files = held(site, b"123456789")
    (site.incoming / "weights").write_bytes(b"123456789")
    assert json.loads(take(site, files).stdout)["changed"] == ["weights"]
