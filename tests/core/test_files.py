"""Listing of folders."""

from __future__ import annotations

from pathlib import Path

from provision.core.files import files_below

ROOT = Path(__file__).resolve().parents[2]


def test_all_files_below_a_folder_are_listed() -> None:
    folder = ROOT / "playbooks"
    there = {path for path in folder.rglob("*") if path.is_file()}
    assert sorted(files_below(folder, but=())) == sorted(there)
    assert sorted(files_below(folder, but=(".md", ".yml"))) == sorted(
        path for path in there if path.suffix not in (".md", ".yml")
    )
