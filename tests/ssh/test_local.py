"""Sessions with this machine."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.core.errors import RemoteCommandError, StageError
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.core.models.staged import StagedFile
from provision.fleet.ssh import Session, open_session
from tests.ssh.files import staged
from tests.waiting import OUTLASTS_S, PATIENCE_S, wait_until


@pytest.fixture
def session() -> Iterator[Session]:
    opened = open_session(Host(name="here", connection=Connection(kind="local"), settings=Settings()))
    yield opened
    opened.close()


def test_output_error_output_and_status_of_a_command_are_separate(session: Session) -> None:
    done = session.run("cat; echo oops >&2; exit 7", stdin="text\n")
    assert (done.rc, done.stdout, done.stderr) == (7, "text\n", "oops\n")


def test_binary_output_is_accepted(session: Session) -> None:
    assert session.run("printf 'a\\377b'").stdout == "a�b"


def test_a_time_limit_ends_the_whole_group(session: Session, tmp_path: Path) -> None:
    with pytest.raises(RemoteCommandError, match=r"on host here did not end within 0\.5 s: sleep"):
        session.run(f"sleep {OUTLASTS_S} & echo $! > {tmp_path}/pid; sleep {OUTLASTS_S}", timeout_s=0.5)
    child = int((tmp_path / "pid").read_text())
    wait_until(lambda: not _alive(child), "it goes on")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_close_ends_a_command_of_another_thread(session: Session) -> None:
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(session.run(f"sleep {OUTLASTS_S}").rc))
    thread.start()
    time.sleep(0.3)
    session.close()
    thread.join(timeout=PATIENCE_S)
    assert ended
    assert ended[0] != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="tests a session of root; for a user sudo decides")
def test_a_session_of_root_needs_no_sudo(session: Session) -> None:
    assert session.run("id -u; cat", stdin="mine", root=True).stdout == "0\nmine"


def test_files_are_written_whole_with_their_mode(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "a 'quoted' name"
    session.write(str(path), b"\0\1\2", mode=0o600)
    assert session.read(str(path)) == b"\0\1\2"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_failed_write_leaves_the_old_file(session: Session, tmp_path: Path) -> None:
    with pytest.raises(RemoteCommandError, match="cannot be written on host here"):
        session.write(str(tmp_path / "none/file"), b"x")
    with pytest.raises(FileNotFoundError):
        session.read(str(tmp_path / "none/file"))


def test_send_links_missing_files_once(
    session: Session, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRSTLIGHT_CACHE", str(tmp_path))
    own = tmp_path_factory.mktemp("own")
    (tmp_path / "files").mkdir()
    files = [staged(tmp_path / "files", "a.whl", b"a" * 1000), staged(own, "sub/b.json", b"b" * 2000)]
    moved: list[int] = []
    first = session.send(files, str(tmp_path / "in"), progress=moved.append)
    assert (first.sent, first.bytes_sent, sum(moved)) == (("a.whl", "sub/b.json"), 3000, 3000)
    assert (tmp_path / "in/sub/b.json").read_bytes() == b"b" * 2000
    assert [Path(file.path).samefile(tmp_path / "in" / file.name) for file in files] == [True, False], (
        "a file of the user stays the user's alone"
    )
    again = session.send(files, str(tmp_path / "in"))
    assert again.sent == ()


def test_a_link_for_an_incoming_folder_is_refused(session: Session, tmp_path: Path) -> None:
    other = tmp_path / "of-the-user"
    other.mkdir(mode=0o755)
    (tmp_path / "incoming").symlink_to(other)
    with pytest.raises(StageError, match="incoming is a link"):
        session.send([], str(tmp_path / "incoming"))
    assert other.stat().st_mode & 0o777 == 0o755


def test_a_damaged_source_is_refused_and_removed(session: Session, tmp_path: Path) -> None:
    file = staged(tmp_path, "a.whl", b"a").model_copy(update={"sha256": "0" * 64})
    with pytest.raises(StageError, match=r"of-a\.whl is damaged"):
        session.send([file], str(tmp_path / "in"))
    assert not (tmp_path / "in/a.whl").exists()


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "-rf", "a b", "", "a\nb", ".arrived"])
def test_a_name_outside_the_folder_is_refused(session: Session, tmp_path: Path, name: str) -> None:
    file = StagedFile(name=name, path="/dev/null", sha256="0" * 64, size=0, kind="wheel")
    with pytest.raises(StageError, match="is no name for a staged file"):
        session.send([file], str(tmp_path / "in"))
