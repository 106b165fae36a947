"""The cases of the security benchmark that tests of the suite prove: each names tests that exist."""

from typing import Any

import pytest

from benchmarks.security import TOTALS, suite_cases
from docs.generate import ROOT


@pytest.mark.parametrize("row", suite_cases(), ids=lambda row: row["did"])
def test_a_case_has_a_counted_group_and_tests_that_exist(row: dict[str, Any]) -> None:
    assert any(row["group"] in groups for groups in TOTALS.values())
    for test in row["tests"]:
        file, _, name = test.partition("::")
        assert f"def {name or 'test_'}" in (ROOT / file).read_text(encoding="utf-8"), test
        assert row.get("hosts", False) == file.startswith("tests/fleet/")
