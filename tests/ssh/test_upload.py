"""The bytes of a transfer: what is sent, and what is found on the host."""

import hashlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.core.errors import DamagedSourceError, StageError
from provision.core.models.inventory import Connection
from provision.core.models.staged import StagedFile
from provision.fleet.ssh.local import LocalSession
from provision.fleet.ssh.session import Completed
from provision.fleet.ssh.upload import (
    RemoteFiles,
    checked_names,
    damage_error,
    part_name,
    require_here,
    send_by_stream,
    tar_stream,
)


def staged(name: str, content: bytes, folder: Path) -> StagedFile:
    path = folder / hashlib.sha256(name.encode()).hexdigest()
    path.write_bytes(content)
    return StagedFile(
        name=name, path=str(path), sha256=hashlib.sha256(content).hexdigest(), size=len(content), kind="wheel"
    )


@given(st.lists(st.binary(max_size=2000), max_size=8))
def test_the_stream_is_a_tar_archive_of_exactly_these_files(contents: list[bytes]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        files = [staged(f"f{number}", content, Path(folder)) for number, content in enumerate(contents)]
        moved: list[int] = []
        archive = b"".join(tar_stream(files, moved.append))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {member.name: (tar.extractfile(member) or io.BytesIO()).read() for member in tar}
    assert found == {part_name(file): content for file, content in zip(files, contents, strict=True)}
    assert sum(moved) == sum(map(len, contents))


def test_a_file_that_became_shorter_is_noticed(tmp_path: Path) -> None:
    file = staged("a", b"12345", tmp_path).model_copy(update={"size": 9})
    with pytest.raises(StageError, match="4 bytes shorter"):
        list(tar_stream([file], lambda _: None))


def test_damage_is_told_apart_by_where_it_happened(tmp_path: Path) -> None:
    file = staged("a", b"12345", tmp_path)
    arrived = damage_error("host n1", file, "0" * 64)
    assert not isinstance(arrived, DamagedSourceError)
    assert "arrived damaged twice on host n1" in arrived.text
    Path(file.path).write_bytes(b"12344")
    source = damage_error("host n1", file, "0" * 64)
    assert isinstance(source, DamagedSourceError)
    assert source.path == file.path
    assert source.text.startswith(f"{file.path} is damaged")


def test_a_survey_distinguishes_verified_and_changed_files(tmp_path: Path) -> None:
    one, two, three = (staged(name, b"12345", tmp_path) for name in ("one", "two", "three"))
    text = (
        f"A {one.sha256} 5 100 one\nA {two.sha256} 5 100 two\nA {'0' * 64} 5 100 three\n"
        f"F 5 100 ./one\nF 5 101 ./two\nF 5 100 ./three\nF 3 100 ./{part_name(two)}\nF 9 1 ./{part_name(three)}\n"
    )
    survey = RemoteFiles.parse(text)
    assert [survey.has(file) for file in (one, two, three)] == [True, False, False]
    # A partial file that is longer than its file does not belong to it.
    assert [survey.part(file) for file in (one, two, three)] == [0, 3, 0]


@given(st.text(max_size=400))
def test_no_text_makes_a_survey_report_a_missing_file(text: str) -> None:
    file = StagedFile(name="a", path="/a", sha256="f" * 64, size=1, kind="wheel")
    try:
        survey = RemoteFiles.parse(text)
    except ValueError:
        return
    assert not survey.has(file)


def test_two_files_with_one_name_are_refused(tmp_path: Path) -> None:
    one = staged("a", b"1", tmp_path)
    assert checked_names([one, one]) == [one]
    with pytest.raises(StageError, match="two different files are to be sent as a"):
        checked_names([one, one.model_copy(update={"sha256": "0" * 64})])


class Shell(LocalSession):
    """A host for a sender: commands run in this machine's own sh."""

    def __init__(self, path: str) -> None:
        super().__init__("here", Connection(kind="local"))
        self._path = path

    def run(self, command: str, *, stdin: str | None = None, timeout_s: float = 60.0, root: bool = False) -> Completed:
        assert not root
        words, env = ["sh", "-c", command], {"PATH": self._path}
        done = subprocess.run(
            words, input=stdin, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    def stream(self, command: str, pieces: Iterator[bytes]) -> None:
        subprocess.run(["sh", "-c", command], input=b"".join(pieces), env={"PATH": self._path}, check=True)


@pytest.fixture(params=["with Python", "without Python"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    if request.param == "with Python":
        return Shell("/usr/bin:/bin")
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in [
        "cat",
        "chmod",
        "find",
        "id",
        "mkdir",
        "mv",
        "rm",
        "sed",
        "sha256sum",
        "sh",
        "stat",
        "tar",
    ]:
        found = shutil.which(tool, path="/usr/bin:/bin")
        assert found
        (tools / tool).symlink_to(found)
    return Shell(str(tools))


def test_arrived_files_are_verified_and_named_also_on_a_host_without_python(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    files = [staged(name, name.encode() * 1000, tmp_path) for name in ("a.whl", "b.whl", "deep/c.json")]
    first = send_by_stream(shell, shell.stream, files[:1], str(folder), print)
    again = send_by_stream(shell, shell.stream, files, str(folder), print)
    assert (first.sent, again.sent) == (("a.whl",), ("b.whl", "deep/c.json"))
    assert {file.name: (folder / file.name).read_bytes() for file in files} == {
        file.name: Path(file.path).read_bytes() for file in files
    }
    assert not list(folder.glob(".*.part"))


def test_a_file_that_arrives_damaged_twice_is_reported_with_both_hashes(shell: Shell, tmp_path: Path) -> None:
    file = staged("a.whl", b"12345", tmp_path)
    wrong = file.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(StageError, match=f"is damaged: its SHA-256 is {file.sha256}, recorded is {'0' * 64}"):
        send_by_stream(shell, shell.stream, [wrong], str(tmp_path / "in"), print)
    assert not (tmp_path / "in" / "a.whl").exists()


def test_what_the_controller_has_no_copy_of_must_have_come_from_elsewhere(tmp_path: Path) -> None:
    here = staged("config.json", b"{}", tmp_path)
    weights = staged("model.safetensors", b"12345", tmp_path).model_copy(update={"path": ""})
    require_here("n1", [here])
    with pytest.raises(StageError, match=r"host n1 did not get model.safetensors from its local source") as raised:
        require_here("n1", [here, weights])
    assert "firstlight_source" in str(raised.value.hint)
