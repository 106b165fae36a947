"""Fabric is imported without what nobody uses of it, and works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json, sys
from pathlib import Path
{before}
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.fleet.ssh.session_factory import open_session
open_session(Host(name="a", connection=Connection(kind="ssh", address="192.0.2.1"), settings=Settings()))
import fabric
loaded = [name for name in ("asyncio", "unittest.mock", "yaml") if name in sys.modules]
Path(sys.argv[1]).write_text("timeouts: {{connect: 7}}")
read = fabric.Config(lazy=True, runtime_path=sys.argv[1])
read.load_runtime()
import unittest.mock
from yaml import CSafeLoader
print(json.dumps([loaded, read.timeouts.connect, unittest.mock.Mock(value=3).value, CSafeLoader.__name__]))
"""


def answers(path: Path, before: str = "") -> Any:
    command = [sys.executable, "-c", PROGRAM.format(before=before), str(path)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)


def test_fabric_brings_neither_asyncio_nor_yaml_and_reads_files_when_asked(tmp_path: Path) -> None:
    assert answers(tmp_path / "settings.yaml") == [[], 7, 3, "CSafeLoader"]


def test_what_was_imported_before_stays(tmp_path: Path) -> None:
    found = answers(tmp_path / "settings.yaml", "import unittest.mock")
    assert found == [["asyncio", "unittest.mock"], 7, 3, "CSafeLoader"]


def test_no_search_in_the_metadata_of_distributions_comes_before_a_connection() -> None:
    program = """
import json, sys
import provision.__main__
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.fleet.ssh.session_factory import open_session
open_session(Host(name="a", connection=Connection(kind="ssh", address="192.0.2.1"), settings=Settings()))
loaded = [name for name in ("email", "importlib.metadata") if name in sys.modules]
import importlib.metadata, paramiko
print(json.dumps([loaded, paramiko.__version__ == importlib.metadata.version("paramiko")]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout) == [[], True]
