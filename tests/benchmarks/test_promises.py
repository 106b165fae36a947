"""Every promise to the first users names a command, tests and figures that exist."""

from __future__ import annotations

import ast
import importlib.util
import shlex
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.promises import Promise, find, promises
from docs.generate import ROOT
from provision.core.install_paths import default_prefix
from provision.pipeline.host_summary import NAME
from tests.docs.commands import parse

PROMISES = [pytest.param(row, id=str(number)) for number, row in enumerate(promises(), 1)]


def check_command(text: str) -> None:
    """Parse a command as its program does; nothing runs."""
    program, *words = shlex.split(text)
    if program == "./firstlight":
        parse(words)
    elif program == "cat":
        assert words == [str(default_prefix(uid=0, home="/root") / NAME)]
    elif words[0] == "-m":
        assert importlib.util.find_spec(words[1]), f"there is no module `{words[1]}`"
    else:
        script = [sys.executable, str(ROOT / words[0]), "--help"]
        shown = subprocess.run(script, capture_output=True, text=True, check=True).stdout
        unknown = [word for word in words if word.startswith("-") and word not in shown]
        assert not unknown, f"`{words[0]}` has no {unknown}"


def functions(file: str) -> set[str]:
    """The test functions of a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", PROMISES)
def test_its_command_exists(row: Promise) -> None:
    check_command(row.command)


@pytest.mark.parametrize(
    "text",
    [
        "./firstlight nothing",
        "./firstlight verify compare --nothing",
        "./firstlight verify upgrade MODULE:FACTORY --nothing",
        "python -m benchmarks.nothing",
        "python verify/cabi/build.py --nothing lib",
        "python verify/cabi/nothing.py",
        "cat /opt/nothing",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(text: str) -> None:
    with pytest.raises(BaseException, match=r"nothing|^64$"):
        check_command(text)


@pytest.mark.parametrize("row", PROMISES)
def test_its_tests_exist(row: Promise) -> None:
    assert row.tests
    for test in row.tests:
        file, _, name = test.partition("::")
        assert name in functions(file), f"there is no test `{test}`"


@pytest.mark.parametrize("row", PROMISES)
def test_its_figures_exist_or_it_says_what_they_need(row: Promise) -> None:
    for figure in row.figures:
        assert figure.text.count("{}") == len(figure.paths)
        if figure.document is None:
            assert row.needs == "an idle machine", f"`{figure.result}` is not kept, and the row does not say why"
        else:
            assert row.needs != "an idle machine", f"`{figure.result}` is kept: the row needs nothing more"
            figure.read()


@pytest.mark.parametrize("path", [["nothing"], ["rows", {"what": "nothing"}], ["rows", {"dtype": "float32"}, "ratio"]])
def test_a_path_that_leads_to_no_single_number_is_refused(path: list[Any]) -> None:
    document = {"rows": [{"dtype": "float32", "ratio": 1}, {"dtype": "float32", "ratio": 2}]}
    with pytest.raises(KeyError):
        find(document, path)
