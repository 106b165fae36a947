"""Before and after on the page: the tables of a comparison, with a verdict a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from provision.report import page
from tests.report.sample import Folder, host, result

ROW = {
    "name": "first_token", "title": "first token, median", "unit": "ms", "before": 80.0, "after": 40.0, "change": -0.5,
    "target": "at most -40%", "met": True, "verdict": "met",
}  # fmt: skip


def document(**values: Any) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "kind": "backend",
        "before": {"choice": "TRITON_ATTN", "used": ["TRITON_ATTN"]},
        "after": {"choice": "FLASH_ATTN", "used": ["FLASH_ATTN"]},
        "rows": [{**ROW, **values}],
    }


def run_with(tmp_path: Path, **values: Any) -> Folder:
    folder = Folder(tmp_path / "20261120T101500Z", [host("gpu-1")])
    folder.results(result("gpu-1", "verify", text="every target is met"))
    folder.run.write("compare/gpu-1.json", document(**values))
    return folder


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "-50.0 %"),
        ({"after": 70.0, "change": -0.125, "met": False, "verdict": "not met"}, "-12.5 %"),
        ({"after": None, "before": None, "change": None, "met": None, "verdict": "not measured"}, "not measured"),
    ],
)
def test_each_measure_has_a_verdict(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    drawn = page.render(run_with(tmp_path, **values).run)
    section = drawn.partition('<section id="compared"')[2].partition("</section>")[0]
    assert "Before and after" in section
    assert "backend: TRITON_ATTN, then FLASH_ATTN" in section
    assert section.count('<th scope="row">') == 1
    assert words in section
    assert values.get("verdict", "met") in section


@pytest.mark.parametrize("content", ["", "5", "[]", '{"kind": "backend"}', json.dumps({**document(), "rows": [7]})])
def test_a_comparison_that_cannot_be_read_is_left_out(tmp_path: Path, content: str) -> None:
    folder = run_with(tmp_path)
    folder.run.path("compare/gpu-1.json").write_text(content, encoding="utf-8")
    assert 'id="compared"' not in page.render(folder.run)


def test_what_a_host_says_runs_nothing_on_the_page(tmp_path: Path) -> None:
    drawn = page.render(run_with(tmp_path, title="<script>alert(1)</script>").run)
    assert "<script>alert(1)" not in drawn
