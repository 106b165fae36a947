"""The bytes of a transfer: what travels, and what is found on the host."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.errors import StageError
from provision.models.staged import StagedFile
from provision.remote.arrivals import Survey, check_space, checked_names, part_name, tar_stream


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


def test_a_survey_tells_the_verified_from_the_changed(tmp_path: Path) -> None:
    one, two, three = (staged(name, b"12345", tmp_path) for name in ("one", "two", "three"))
    text = (
        f"A {one.sha256} 5 100 one\nA {two.sha256} 5 100 two\nA {'0' * 64} 5 100 three\n"
        f"F 5 100 ./one\nF 5 101 ./two\nF 5 100 ./three\nF 3 100 ./{part_name(two)}\nF 9 1 ./{part_name(three)}\nD 1024\n"
    )
    survey = Survey.parse(text)
    assert [survey.has(file) for file in (one, two, three)] == [True, False, False]
    # A part longer than its file is none of it.
    assert [survey.part(file) for file in (one, two, three)] == [0, 3, 0]
    assert survey.free == 1024 * 1024


@given(st.text(max_size=400))
def test_no_text_makes_a_survey_say_that_something_is_there(text: str) -> None:
    file = StagedFile(name="a", path="/a", sha256="f" * 64, size=1, kind="wheel")
    try:
        survey = Survey.parse(text)
    except ValueError:
        return
    assert not survey.has(file)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    one = staged("a", b"1", tmp_path)
    assert checked_names([one, one]) == [one]
    with pytest.raises(StageError, match="two different files are to be sent as a"):
        checked_names([one, one.model_copy(update={"sha256": "0" * 64})])


def test_space_is_counted_with_what_must_stay_free() -> None:
    check_space("host a", "/in", 0, 0)
    check_space("host a", "/in", 10**9, 2 * 10**9)
    with pytest.raises(StageError, match=r"host a has 1\.0 GB free at /in; 1\.0 GB are to come"):
        check_space("host a", "/in", 10**9, 10**9)
