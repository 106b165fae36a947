"""What a run imports, and when."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys
from types import SimpleNamespace
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host, Connection
from provision.core.models.settings import Settings
from provision.core.models.stack import Plan
from provision.pipeline.phases import STEPS, prepare
from provision.pipeline.results import ProbedHosts
from pathlib import Path

host = Host(name="a", connection=Connection(kind="local"), settings=Settings())
inventory = SimpleNamespace(hosts=(host,))
context = SimpleNamespace(inventory=inventory, result=ProbedHosts(), cache=Path(sys.argv[1]))
prepare(context, STEPS)
print(HostFacts.__pydantic_complete__, Plan.__pydantic_complete__)
print(*sorted(name for name in sys.modules if name.startswith("provision.pipeline.")))
"""


def prepared(cache: Path) -> tuple[str, list[str]]:
    """Return whether validators are built, and the modules of the pipeline that are imported."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, cache], capture_output=True, text=True, check=True, cwd=ROOT)
    complete, modules = done.stdout.splitlines()
    return complete, [name.removeprefix("provision.pipeline.") for name in modules.split()]


def test_what_hosts_leave_time_for_is_done_while_they_answer(tmp_path: Path) -> None:
    complete, modules = prepared(tmp_path)
    assert complete == "True True"
    assert {"plan", "stage", "install", "verify", "serve"} <= {*modules}
    assert (tmp_path / "tools" / "verify.pyz").exists()


def test_steps_without_work_are_not_imported(tmp_path: Path) -> None:
    _, modules = prepared(tmp_path)
    assert not {"gateway", "monitoring", "firewall"} & {*modules}
