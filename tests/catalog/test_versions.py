"""Comparing the version strings of the tables."""

import pytest

from provision.catalog.versions import between, cuda_of, minor, numbers, release, specifier, within
from provision.core.errors import UsageError


def test_drivers_compare_by_number_not_by_text() -> None:
    assert numbers("535.183.01") == (535, 183, 1)
    assert numbers("580.65.06") < numbers("580.173.02")


@pytest.mark.parametrize(
    ("variant", "cuda"), [("cu129", "12.9"), ("cu118", "11.8"), ("cu130", "13.0"), ("cpu", None), ("rocm7.0", None)]
)
def test_cuda_of_a_variant(variant: str, cuda: str | None) -> None:
    assert cuda_of(variant) == cuda


def test_ranges() -> None:
    assert within("3.11.2", "<3.15,>=3.11")
    assert not within("3.10.12", "<3.15,>=3.11")
    assert between("0.8.5.post1", "0.8.0", "0.10.2")
    assert not between("0.10.10", "0.8.0", "0.10.2")
    assert between("9.0", "0.13.0", None)
    assert minor("3.11.2") == "3.11"


def test_an_invalid_version_is_refused() -> None:
    with pytest.raises(UsageError, match="`new` is not a version"):
        release("new")
    with pytest.raises(UsageError, match="is not a version range"):
        specifier("newer than 3")
