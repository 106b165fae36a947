"""Files that are written to a host are recorded; commands that only read are not."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from provision.core.errors import RemoteCommandError
from provision.core.models.inventory import Connection
from provision.core.models.staged import StagedFile
from provision.fleet.ssh.local import LocalSession
from provision.fleet.ssh.session import Session


class Changes:
    """Records the changes that it is called with."""

    def __init__(self) -> None:
        self.changes: list[dict[str, Any]] = []

    def __call__(self, how: str, *, host: str, output: str = "", **data: Any) -> None:
        self.changes.append({"how": how, "host": host, "output": output, **data})


@pytest.fixture
def record() -> Changes:
    return Changes()


@pytest.fixture
def session(record: Changes) -> Session:
    session = LocalSession("a", Connection(kind="local"))
    session.record = record
    return session


def test_a_written_file_is_recorded_with_its_hash(session: Session, record: Changes, tmp_path: Path) -> None:
    path = str(tmp_path / "unit")
    session.write(path, b"text", mode=0o600)
    assert session.read(path) == b"text"
    assert session.run("true").rc == 0
    [change] = record.changes
    assert (change["how"], change["path"], change["mode"], change["bytes"]) == ("write", path, "0600", 4)
    assert change["sha256"] == hashlib.sha256(b"text").hexdigest()
    assert change["changed"] is True


def test_a_refused_file_is_recorded_as_a_possible_change(session: Session, record: Changes, tmp_path: Path) -> None:
    with pytest.raises(RemoteCommandError):
        session.write(str(tmp_path / "nowhere" / "unit"), b"text")
    [change] = record.changes
    assert change["changed"] is None
    assert "nowhere" in change["output"]


def test_sent_files_are_recorded_once_by_name_and_hash(session: Session, record: Changes, tmp_path: Path) -> None:
    source = tmp_path / "wheel"
    source.write_bytes(b"wheel")
    sha = hashlib.sha256(b"wheel").hexdigest()
    file = StagedFile(name="a.whl", path=str(source), sha256=sha, size=5, kind="wheel")
    for _ in range(2):
        session.send([file], str(tmp_path / "incoming"))
    [change] = record.changes
    assert (change["how"], change["sha256"], change["changed"]) == ("send", {"a.whl": sha}, True)
