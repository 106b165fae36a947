"""Archives of start caches as they leave a host and arrive on another one; no engine has compiled these files."""

import os
import pwd
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from provision.features.start_cache.onhost import start_cache_archive as program

KEY = "start-0123456789abcdef"
CODE = program.ELF + b" a library"


def cache(parent: Path, **files: bytes) -> Path:
    """Make a cache with these files, a library and a text below folders."""
    folder = parent / "cache" / KEY
    for name, content in {"vllm/a/kernel.so": CODE, "vllm/a/kernel.cpp": b"int x;", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def empty(parent: Path) -> Path:
    (parent / "there/cache").mkdir(parents=True)
    return parent / "there/cache" / KEY


def run(action: str, folder: Path, *words: str | Path) -> str:
    """Run the program as a host does, and return what it prints. Raises AssertionError with its message."""
    argv = [sys.executable, "-I", "-S", program.__file__, action, "--folder", folder, *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_cache_arrives_as_it_was_packed_readable_for_its_owner_alone(tmp_path: Path) -> None:
    folder, target, archive = cache(tmp_path), empty(tmp_path), tmp_path / "a.tar"
    (folder / "link").symlink_to("/etc/passwd")
    assert run("look", folder) == "1\n"
    run("pack", folder, "--archive", archive)
    run("unpack", target, "--archive", archive)
    assert content_of(target) == {"vllm/a/kernel.so": CODE, "vllm/a/kernel.cpp": b"int x;"}
    assert {path.stat().st_mode & 0o077 for path in (target, *target.rglob("*"))} == {0}
    assert listed(target.parent) == [KEY]


def test_a_cache_without_compiled_code_is_not_packed_and_is_replaced(tmp_path: Path) -> None:
    folder, target, archive = cache(tmp_path), empty(tmp_path), tmp_path / "a.tar"
    (target / "vllm").mkdir(parents=True)
    (target / "vllm/trace").write_text("of a start that ended early")
    with pytest.raises(AssertionError, match="no compiled code"):
        run("pack", target, "--archive", tmp_path / "b.tar")
    run("pack", folder, "--archive", archive)
    run("unpack", target, "--archive", archive)
    assert "vllm/trace" not in content_of(target)
    with pytest.raises(AssertionError, match="has compiled code already"):
        run("unpack", target, "--archive", archive)


def test_a_cache_that_is_too_large_is_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MOST_BYTES", 10)
    with pytest.raises(program.ArchiveError, match="too much to send"):
        program.pack(cache(tmp_path), BytesIO())


def test_an_archive_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.tar").symlink_to(tmp_path / "other")
    with pytest.raises(AssertionError, match="File exists"):
        run("pack", cache(tmp_path), "--archive", tmp_path / "a.tar")


def entry(name: str, content: bytes = CODE, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.size = len(content)
    for field, value in fields.items():
        setattr(made, field, value)
    return made, content


def archived(*entries: tuple[tarfile.TarInfo, bytes]) -> BytesIO:
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for one, content in entries:
            tar.addfile(one, BytesIO(content))
    archive.seek(0)
    return archive


@pytest.mark.parametrize(
    ("archive", "why"),
    [
        (archived(entry("a/../../x.so")), "leaves the folder"),
        (archived(entry("/etc/x.so")), "leaves the folder"),
        (archived(entry("a//etc/x.so")), "leaves the folder"),
        (archived(entry("l", b"", type=tarfile.SYMTYPE, linkname="/etc"), entry("l/x.so")), "not a regular file"),
        (archived(entry("l", b"", type=tarfile.LNKTYPE, linkname="/etc/shadow")), "not a regular file"),
        (archived(entry("l", b"", type=tarfile.CHRTYPE)), "not a regular file"),
        (archived(entry("l", b"", type=tarfile.FIFOTYPE)), "not a regular file"),
        (archived(entry("l", b"", type=tarfile.DIRTYPE)), "not a regular file"),
        (archived(entry("good.so"), entry("good.so")), "cannot be read: .*File exists"),
        (BytesIO(archived(entry("good.so", CODE * 1000)).getvalue()[:1500]), "cannot be read"),
        (BytesIO(b"x" * 4096), "cannot be read"),
        (BytesIO(b""), "cannot be read"),
    ],
)
def test_a_hostile_archive_is_refused_and_leaves_nothing(tmp_path: Path, archive: BytesIO, why: str) -> None:
    folder = empty(tmp_path)
    with pytest.raises(program.ArchiveError, match=why):
        program.unpack(folder, archive)
    assert listed(folder.parent) == []
    assert listed(tmp_path) == ["there"]


def test_more_than_a_cache_may_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = BytesIO()
    program.pack(cache(tmp_path), whole)
    whole.seek(0)
    monkeypatch.setattr(program, "MOST_BYTES", 10)
    with pytest.raises(program.ArchiveError, match="the files have more than"):
        program.unpack(empty(tmp_path), whole)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
def test_root_becomes_the_account_of_the_service_before_it_touches_a_cache(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    owner = pwd.getpwnam("nobody")
    base = tmp_path_factory.mktemp("owned")
    for folder in (base, *base.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    made, target, private = cache(base), empty(base), base / "private"
    private.mkdir(mode=0o700)
    for path in (base / "cache", *(base / "cache").rglob("*"), target.parent):
        os.chown(path, owner.pw_uid, owner.pw_gid)
    words = ("--archive", private / "a.tar", "--owner", "nobody")
    run("pack", made, *words)
    run("unpack", target, *words)
    assert {path.stat().st_uid for path in (target, *target.rglob("*"))} == {owner.pw_uid}
    # What that account cannot read is not packed for it, even if the service put it there.
    (made / "secret.so").write_bytes(CODE)
    (made / "secret.so").chmod(0o600)
    (private / "a.tar").unlink()
    with pytest.raises(AssertionError, match="Permission denied"):
        run("pack", made, *words)
