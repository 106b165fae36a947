"""Passwords reach Ansible without a file on any disk, so that no run can leave one."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from provision.phases.install.host_results import install
from provision.phases.install.hosts_file import Target, memory_file, render_secrets
from tests.install.conftest import Site
from tests.install.scripts import run_ansible
from tests.install.test_host_results import host

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SECRET = "sudo-s3cret {{ 7 * 7 }}"
CONTROLLER = """
import json, sys
from pathlib import Path
from pydantic import SecretStr
from provision.phases.install.host_results import install
from provision.phases.install.hosts_file import Target
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.core.run_folder import RunFolder

given = json.load(sys.stdin)
connection = Connection(kind="local", become_password=SecretStr(given["password"]))
host = Host(name="this", connection=connection, settings=Settings())
run = RunFolder.create(Path(given["logs"]), command="install")
install(run, [Target(host, given["variables"])], progress=lambda host, task: print(task, flush=True))
"""


def test_ansible_reads_the_password_and_no_file_remains(tmp_path: Path) -> None:
    with memory_file(render_secrets({"gpu-1": {"ansible_become_password": SECRET}})) as path:
        done = run_ansible("ansible-inventory", "-i", path, "--host", "gpu-1", HOME=str(tmp_path))
        mode = path.stat().st_mode
    assert json.loads(done.stdout)["ansible_become_password"] in (SECRET, {"__ansible_unsafe": SECRET})
    assert mode & 0o777 == 0o600
    assert not path.exists()


def test_no_file_has_a_password_at_any_time(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # a control socket's path must be short
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    seen: set[str] = set()
    looked: list[Path] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            paths = [*files_below(temporary), *files_below(run.folder)]
            looked.extend(paths)
            seen.update(holding(paths))

    run = site.run()
    thread = threading.Thread(target=look)
    thread.start()
    try:
        results = install(
            run, [Target(host("this", become_password=SecretStr(SECRET)), site.variables)], playbook="stop"
        )
    finally:
        over.set()
        thread.join()
    assert results["this"].status == "ok", results
    assert looked, "the playbook's private folder was searched"
    assert seen == set()
    shutil.rmtree(temporary)


def test_a_controller_that_is_killed_leaves_no_password(site: Site, tmp_path: Path) -> None:
    """Killed while a task of the host runs, so that Ansible has read the password; nothing cleans up after SIGKILL."""
    temporary = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # a control socket's path must be short
    shared = Path("/dev/shm")
    before = set(shared.iterdir())
    Path(site.variables["firstlight_tools"]["builtin_model.py"]).write_text("import time\ntime.sleep(600)\n")
    site.send()
    given = {"password": SECRET, "logs": str(tmp_path / "logs"), "variables": site.variables}
    with subprocess.Popen(
        [sys.executable, "-c", CONTROLLER],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as controller:
        assert controller.stdin
        assert controller.stdout
        try:
            controller.stdin.write(json.dumps(given))
            controller.stdin.close()
            assert any(line.startswith("Create the built-in model") for line in controller.stdout)
            assert holding(Path(f"/proc/{controller.pid}/fd").iterdir()), "the controller has it in memory"
        finally:
            started = list(below(controller.pid))
            controller.kill()
            controller.wait()
            left = holding([*files_below(temporary), *files_below(tmp_path)])
            left |= holding(set(shared.iterdir()) - before)
            for pid in started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    assert started, "Ansible was running"
    assert [*files_below(temporary)], "the playbook's private folder was left, and was searched"
    assert left == set()
    # Processes that the killed ones had started may still write there for a moment.
    shutil.rmtree(temporary, ignore_errors=True)


def holding(paths: Iterable[Path]) -> set[str]:
    """Return those of these files that contain the password."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            if path.is_file() and b"sudo-s3cret" in path.read_bytes():
                found.add(str(path))
    return found


def files_below(folder: Path) -> Iterator[Path]:
    """Return every file of a folder that other processes use; files that disappear meanwhile are skipped."""
    return (Path(at, name) for at, _, names in os.walk(folder) for name in names)


def below(pid: int) -> Iterator[int]:
    """Return all descendants of a process."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from below(child)
