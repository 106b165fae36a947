"""Each recorded output gives the facts that its JSON file names, whatever a terminal or a transport added to it."""

import json
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.facts import HostFacts
from provision.phases.probe.assemble import parse

RECORDED = Path(__file__).parent / "recorded"
CASES = sorted(path.stem for path in RECORDED.glob("*.txt"))


def at(value: Any, path: str) -> Any:
    """Return the value at a dotted path; keys that contain dots are tried as a whole first."""
    if path == "#":
        return len(value)
    if isinstance(value, dict) and path in value:
        return value[path]
    head, _, rest = path.partition(".")
    inner = value[int(head)] if isinstance(value, list) else value[head]
    return at(inner, rest) if rest else inner


def read(name: str) -> HostFacts:
    return parse(name, (RECORDED / f"{name}.txt").read_bytes())


def test_every_case_has_expectations() -> None:
    assert sorted(path.stem for path in RECORDED.glob("*.json")) == CASES


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_output_gives_its_facts_which_survive_their_file(name: str) -> None:
    text = read(name).model_dump_json()
    facts = json.loads(text)
    expected = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    assert {path: at(facts, path) for path in expected} == expected
    assert HostFacts.model_validate_json(text) == read(name)


@pytest.mark.parametrize("name", CASES)
def test_additions_of_transports_change_nothing(name: str) -> None:
    text = (RECORDED / f"{name}.txt").read_text(encoding="utf-8")
    banner = "Welcome!\n@@ not ours begin\n"
    coloured = text.replace("ID=", "\x1b[1;32mID=\x1b[0m")
    dressed = banner + coloured.replace("\n", "\r\n") + "\r\nConnection closed.\r\n"
    assert parse(name, dressed) == read(name)


@pytest.mark.parametrize("name", CASES)
def test_truncated_output_keeps_its_facts_and_names_missing_ones(name: str) -> None:
    text = (RECORDED / f"{name}.txt").read_text(encoding="utf-8")
    cut = text[: text.index(" begin os_release") + 40]
    facts = parse(name, cut)
    assert facts.unknown["os.kernel"] == "the probe's output was cut"
    assert facts.cpu == read(name).cpu
