"""Generated pages, tables and schemas are current."""

from types import ModuleType

import pytest

from docs.generate import ROOT, current_text, find_generators, replace_table

GENERATORS = list(find_generators())


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda generator: generator.__name__.rpartition(".")[2])
def test_a_generated_text_is_current(generator: ModuleType) -> None:
    text = (ROOT / generator.TARGET).read_text(encoding="utf-8")
    assert text == current_text(generator, text), f"{generator.TARGET} is not current: run ./firstlight docs"


def test_every_file_of_the_folder_is_a_generator() -> None:
    files = {path.stem for path in (ROOT / "docs" / "generators").glob("*.py")} - {"__init__"}
    assert {generator.__name__.rpartition(".")[2] for generator in GENERATORS} == files


@pytest.mark.parametrize("text", ["no place", "<!-- sets: begin -->\n<!-- sets: end -->\n" * 2])
def test_a_page_needs_one_place_for_a_table(text: str) -> None:
    with pytest.raises(ValueError, match=r"the page has [02] places for the table `sets`, not 1"):
        replace_table(text, "sets", "")
