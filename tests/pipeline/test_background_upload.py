"""What is done while files are fetched: others are sent, and OS packages installed. To which hosts, in which order, and the effect of a failure."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from provision.core.errors import TransportError
from provision.core.install_paths import InstallPaths
from provision.core.models.facts import Python
from provision.core.models.inventory import Connection, Host
from provision.core.models.records import PhaseResult
from provision.core.models.staged import StagedFile
from provision.core.run_folder import RunFolder
from provision.fleet.ssh import SendReport
from provision.fleet.ssh.local import LocalSession
from provision.fleet.ssh.session import Progress
from provision.phases.install.hosts_file import Target
from provision.run import background, playbooks
from provision.run.background import BackgroundUpload
from provision.run.context import RunContext
from provision.run.results import PlannedHosts
from tests.pipeline.local_context import local_context
from tests.pipeline.test_up_to_date import host_facts


class Sessions:
    """A session for each host that only records what it is to send."""

    def __init__(self) -> None:
        self.sent: dict[str, list[str]] = {}
        self.closed: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fails: set[str] = set()
        self.began = threading.Event()

    def open(self, host: Host) -> Session:
        return Session(host.name, self)


class Session(LocalSession):
    def __init__(self, host: str, all_of_them: Sessions) -> None:
        super().__init__(host, Connection(kind="local"))
        self._all = all_of_them

    def _send(self, files: Sequence[StagedFile], folder: str, progress: Progress) -> SendReport:
        del progress
        self._all.began.set()
        assert self._all.gate.wait(20)
        if self.host in self._all.fails:
            raise TransportError(f"host {self.host} is gone")
        assert folder == "/root/incoming"
        self._all.sent.setdefault(self.host, []).extend(file.name for file in files)
        return SendReport(tuple(file.name for file in files), 1, 0.0)

    def close(self) -> None:
        self._all.closed.append(self.host)
        self._all.gate.set()


def file(name: str) -> StagedFile:
    return StagedFile(name=name, path=f"/cache/{name}", sha256="0" * 64, size=1, kind="wheel")


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Sessions:
    made = Sessions()
    monkeypatch.setattr("provision.run.context.open_session", made.open)
    return made


@pytest.fixture
def context(tmp_path: Path, sessions: Sessions) -> Iterator[RunContext]:
    del sessions
    context = local_context(tmp_path, "ab")
    with context.stack:
        yield context


PATHS = InstallPaths(prefix="/opt/firstlight", incoming="/root/incoming", owner="firstlight", root=True)
PLANNED = PlannedHosts(install_paths=dict.fromkeys("ab", PATHS))


def start(context: RunContext, *names: str) -> tuple[BackgroundUpload, Callable[[StagedFile], None]]:
    upload = BackgroundUpload(context, PLANNED, [context.host(name) for name in names])
    context.start_background("upload", upload)
    callback = upload.callback(context.inventory.hosts)
    assert callback
    return upload, callback


def events(context: RunContext, kind: str) -> list[str]:
    lines = map(json.loads, context.run.path("events.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["host"] for line in lines if line["kind"] == kind]


def test_each_bare_host_gets_every_file_once_and_in_order(context: RunContext, sessions: Sessions) -> None:
    upload, send = start(context, "a", "b")
    names = [f"{number}.whl" for number in range(20)]
    for name in names:
        send(file(name))
    upload.wait()
    assert sessions.sent == {"a": names, "b": names}
    assert set(events(context, "background-upload")) == {"a", "b"}
    changes = [json.loads(line) for line in context.run.path("changes.jsonl").read_text(encoding="utf-8").splitlines()]
    noted = {host: [name for line in changes if line["host"] == host for name in line["sha256"]] for host in ("a", "b")}
    assert noted == sessions.sent, "the background upload is recorded like the files that install sends"


def test_hosts_that_have_an_environment_get_nothing(context: RunContext) -> None:
    upload = BackgroundUpload(context, PLANNED, [context.host("a")])
    assert upload.callback([context.host("b")]) is None


def test_a_failed_host_is_left_to_install_and_the_others_continue(context: RunContext, sessions: Sessions) -> None:
    sessions.fails.add("a")
    upload, send = start(context, "a", "b")
    for name in ("1.whl", "2.whl"):
        send(file(name))
    upload.wait()
    assert sessions.sent == {"b": ["1.whl", "2.whl"]}
    assert events(context, "background-upload-ended") == ["a"]
    assert not context.has_failed("a")


def test_the_end_of_a_run_stops_the_upload(context: RunContext, sessions: Sessions) -> None:
    sessions.gate.clear()
    _, send = start(context, "a")
    send(file("1.whl"))
    assert sessions.began.wait(20)
    send(file("2.whl"))
    context.background.stop()
    assert sessions.closed == ["a"]
    assert "2.whl" not in sessions.sent.get("a", [])


@pytest.mark.parametrize(
    ("path", "version", "begins"),
    [
        ("/usr/bin/python3", "3.9.2", True),
        ("/usr/bin/python3", "3.8.10", False),
        ("/opt/py/bin/python3", "3.11.9", False),
        ("", "", False),
    ],
)
def test_os_packages_are_installed_early_where_ansible_finds_a_python(
    context: RunContext, monkeypatch: pytest.MonkeyPatch, path: str, version: str, begins: bool
) -> None:
    """Another host waits for the Python that `install` sends."""
    began: list[str] = []

    def install(_: RunFolder, targets: Sequence[Target], **__: object) -> dict[str, PhaseResult]:
        began.extend(target.host.name for target in targets)
        return {}

    monkeypatch.setattr(background, "install", install)
    monkeypatch.setattr(playbooks, "acquire_locks", lambda _, __, ___, hosts: hosts)
    context.background.package_sources = {"a": True}
    pythons = (Python(path=path, version=version),) if version else ()
    facts = {name: host_facts(pythons=pythons) for name in "ab"}
    background.start(context, replace(PLANNED, facts=facts))
    context.background.wait_for("packages")
    assert began == (["a"] if begins else [])
