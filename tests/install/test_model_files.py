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
