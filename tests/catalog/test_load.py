"""Errors of the loader for an invalid table."""

from pathlib import Path

import pytest

from provision.catalog import Catalog
from provision.core.tables import TableError

GOOD = """
[[major]]
major = 12
driver = "525.60.13"
source = "NVIDIA's page"
"""


def folder(tmp_path: Path, text: str) -> Catalog:
    (tmp_path / "cuda.toml").write_text(text, encoding="utf-8")
    return Catalog(tmp_path)


def test_a_valid_table_is_loaded(tmp_path: Path) -> None:
    assert folder(tmp_path, GOOD).cuda_majors[0].driver == "525.60.13"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("driver =", "drivr ="), "cuda.toml, major 1: unknown field `drivr`"),
        (GOOD.replace('driver = "525.60.13"\n', ""), "cuda.toml, major 1: no `driver`"),
        (GOOD.replace("NVIDIA's page", ""), "cuda.toml, major 1: a row without a source"),
        (GOOD.replace('source = "NVIDIA\'s page"\n', ""), "no `source`"),
        (GOOD.replace("major = 12", 'major = "new"'), "cuda.toml, major 1: `major` is 'new': "),
        (GOOD.replace("[[major]]", "[[major]"), "cuda.toml` cannot be read: "),
    ],
)
def test_an_invalid_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TableError) as caught:
        _ = folder(tmp_path, text).cuda_majors
    assert message in caught.value.text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError) as caught:
        _ = Catalog(tmp_path).releases
    assert "vllm.toml" in caught.value.text
