"""Modules are found where they were, as long as they are there: tried with a small program and an index of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json, sys
from importlib.machinery import PathFinder
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from provision.core.module_index import ModuleIndex
index = ModuleIndex(Path(sys.argv[1]))
sys.meta_path.insert(sys.meta_path.index(PathFinder), index)
import pack.inner, single
index.keep()
by_index = sorted(name for name in ("pack", "pack.inner", "single") if type(sys.modules[name].__loader__).__name__ == "_Loader")
print(json.dumps({"by": by_index, "said": [pack.inner.SAID, single.SAID], "files": [pack.__file__, single.__file__]}))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    (made / "pack").mkdir(parents=True)
    (made / "pack/__init__.py").write_text("")
    (made / "pack/inner.py").write_text("SAID = 'inner'\n")
    (made / "single.py").write_text("SAID = 'single'\n")
    return made


def run_program(index: Path, *folders: Path) -> Any:
    """Run the program with folders in front of its path; return what it printed."""
    command = [sys.executable, "-c", PROGRAM, str(index), *map(str, folders)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=index.parent)
    return json.loads(done.stdout)


ALL = ["pack", "pack.inner", "single"]


def test_the_second_run_finds_modules_by_the_index(tmp_path: Path, folder: Path) -> None:
    first, second = run_program(tmp_path / "index", folder), run_program(tmp_path / "index", folder)
    assert (first["by"], second["by"]) == ([], ALL)
    assert (first["said"], first["files"]) == (second["said"], second["files"])
    assert second["said"] == ["inner", "single"]


def test_a_changed_source_is_read_again(tmp_path: Path, folder: Path) -> None:
    run_program(tmp_path / "index", folder)
    (folder / "single.py").write_text("SAID = 'changed'\n")
    assert run_program(tmp_path / "index", folder)["said"] == ["inner", "changed"]


def test_a_module_that_became_a_package_is_found(tmp_path: Path, folder: Path) -> None:
    run_program(tmp_path / "index", folder)
    (folder / "single.py").unlink()
    (folder / "single").mkdir()
    (folder / "single/__init__.py").write_text("SAID = 'package'\n")
    assert run_program(tmp_path / "index", folder)["said"] == ["inner", "package"]


def test_another_path_is_searched_anew(tmp_path: Path, folder: Path) -> None:
    run_program(tmp_path / "index", folder)
    (tmp_path / "before").mkdir()
    (tmp_path / "before/single.py").write_text("SAID = 'before'\n")
    assert run_program(tmp_path / "index", tmp_path / "before", folder)["said"] == ["inner", "before"]


def test_a_copied_folder_has_modules_of_its_own(tmp_path: Path, folder: Path) -> None:
    run_program(tmp_path / "index", folder)
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied, copy_function=shutil.copy2)
    found = run_program(tmp_path / "index", copied)
    assert found["files"] == [str(copied / "pack/__init__.py"), str(copied / "single.py")]


def test_an_installed_or_removed_distribution_ends_an_index(tmp_path: Path, folder: Path) -> None:
    packages = folder.rename(tmp_path / "site-packages")
    # The first run writes byte code into the folder.
    runs = [run_program(tmp_path / "index", packages)["by"] for _ in range(3)]
    assert runs[-1] == ALL
    (packages / "another-1.0.dist-info").mkdir()
    assert run_program(tmp_path / "index", packages)["by"] == []
    assert run_program(tmp_path / "index", packages)["by"] == ALL


@pytest.mark.parametrize("content", [b"", b"{}", b"\xe3\x00", None])
def test_a_damaged_index_is_made_anew(tmp_path: Path, folder: Path, content: bytes | None) -> None:
    run_program(tmp_path / "index", folder)
    kept = (tmp_path / "index").read_bytes()
    (tmp_path / "index").write_bytes(kept[: len(kept) // 2] if content is None else content)
    found = run_program(tmp_path / "index", folder)
    assert (found["by"], found["said"]) == ([], ["inner", "single"])
    assert run_program(tmp_path / "index", folder)["by"] == ALL


def test_an_index_that_cannot_be_written_is_left_alone(tmp_path: Path, folder: Path) -> None:
    place = tmp_path / "environment"
    (place / "index").mkdir(parents=True)
    found = run_program(place / "index", folder)
    assert (found["by"], found["said"]) == ([], ["inner", "single"])
    assert [path.name for path in place.iterdir()] == ["index"]
