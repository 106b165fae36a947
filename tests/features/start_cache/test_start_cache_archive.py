"""Archives of start caches as they leave a host and arrive on another one; no engine has compiled these files."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
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


def run(action: str, folder: Path, *words: str | Path) -> dict[str, Any]:
    """Run the program as a host does. Raises AssertionError with its message."""
    argv = [sys.executable, "-I", "-S", program.__file__, action, "--folder", folder, *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def listed(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_cache_arrives_as_it_was_packed_readable_for_its_owner_alone(tmp_path: Path) -> None:
    folder, target, archive = cache(tmp_path), empty(tmp_path), tmp_path / "a.tar"
    (folder / "link").symlink_to("/etc/passwd")
    packed = run("pack", folder, "--archive", archive)
    assert packed["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert packed["size"] == archive.stat().st_size
    assert run("unpack", target, "--archive", archive)["files"] == packed["files"] == 2
    assert content_of(target) == {"vllm/a/kernel.so": CODE, "vllm/a/kernel.cpp": b"int x;"}
    assert {path.stat().st_mode & 0o077 for path in (target, *target.rglob("*"))} == {0}
    assert listed(target.parent) == [KEY]


def test_compiled_code_that_is_written_later_is_found_whatever_time_it_claims(tmp_path: Path) -> None:
    folder = cache(tmp_path)
    before = program.look(folder, 0)
    # The clock of a file system advances in steps of some milliseconds.
    while program.look(folder, before["now"])["now"] < before["now"] + 20_000_000:
        time.sleep(0.001)
    (folder / "vllm/a/traced").write_bytes(b"a graph, which holds no compiled code")
    since = before["now"]
    assert (before["code"], program.look(folder, since)["new"]) == (1, 0)
    (folder / "triton.cubin").write_bytes(CODE)
    os.utime(folder / "triton.cubin", (0, 0))
    assert program.look(folder, since) | {"now": 0} == {"code": 2, "new": 1, "names": ["triton.cubin"], "now": 0}


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


Entries = list[tuple[tarfile.TarInfo, bytes]]


def entry(name: str, content: bytes = CODE, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.size = len(content)
    for field, value in fields.items():
        setattr(made, field, value)
    return made, content


def manifest(entries: Entries, **changes: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return the manifest that belongs to entries, with changed keys."""
    files = {one.name[6:]: [len(content), hashlib.sha256(content).hexdigest()] for one, content in entries}
    return entry(program.MANIFEST, json.dumps({"format": 1, "key": KEY, "files": files} | changes).encode())


def archived(entries: Entries) -> BytesIO:
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for one, content in entries:
            tar.addfile(one, BytesIO(content))
    archive.seek(0)
    return archive


def hostile(make: Callable[[], Entries]) -> Entries:
    entries = make()
    return [*entries, manifest([one for one in entries if one[1]])]


GOOD = ("cache/good.so", CODE)
NO_CONTENT = {"size": 0}


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        (hostile(lambda: [entry("cache/../../x.so")]), "leaves the folder"),
        (hostile(lambda: [entry("/etc/x.so")]), "leaves the folder"),
        (hostile(lambda: [entry("cache//etc/x.so")]), "leaves the folder"),
        (hostile(lambda: [entry("elsewhere/x.so")]), "leaves the folder"),
        (
            hostile(lambda: [entry("cache/l", b"", type=tarfile.SYMTYPE, linkname="/etc"), entry("cache/l/x.so")]),
            "not a regular file",
        ),
        (hostile(lambda: [entry("cache/l", b"", type=tarfile.LNKTYPE, linkname="/etc/shadow")]), "not a regular file"),
        (hostile(lambda: [entry("cache/l", b"", type=tarfile.CHRTYPE)]), "not a regular file"),
        (hostile(lambda: [entry("cache/l", b"", type=tarfile.FIFOTYPE)]), "not a regular file"),
        (hostile(lambda: [entry("cache/l", b"", type=tarfile.DIRTYPE)]), "not a regular file"),
        (hostile(lambda: [entry(*GOOD), entry(*GOOD)]), "cannot be read: .*File exists"),
        ([entry(*GOOD)], "no manifest"),
        ([entry(program.MANIFEST, b"[" * 100_000)], "cannot be read"),
        (
            [entry(*GOOD), manifest([entry("cache/good.so", CODE + b"x")])],
            "1 files differ from its manifest, such as good.so",
        ),
        ([entry(*GOOD), manifest([])], "1 files differ from its manifest, such as good.so"),
        (
            [entry(*GOOD), manifest([entry(*GOOD), entry("cache/b.so")])],
            "1 files differ from its manifest, such as b.so",
        ),
        ([entry(*GOOD), manifest([entry(*GOOD)], files=None)], "1 files differ"),
        ([entry(*GOOD), manifest([entry(*GOOD)], key="start-" + "f" * 16)], "the cache of 'start-ffff"),
        ([entry(*GOOD), manifest([entry(*GOOD)], format=2)], "another form"),
    ],
)
def test_a_hostile_archive_is_refused_and_leaves_nothing(tmp_path: Path, entries: Entries, why: str) -> None:
    folder = empty(tmp_path)
    with pytest.raises(program.ArchiveError, match=why):
        program.unpack(folder, archived(entries))
    assert listed(folder.parent) == []
    assert listed(tmp_path) == ["there"]


def test_a_truncated_archive_and_one_that_is_none_are_refused(tmp_path: Path) -> None:
    folder, whole = empty(tmp_path), BytesIO()
    program.pack(cache(tmp_path), whole)
    for content in (whole.getvalue()[:1500], b"x" * 4096, b""):
        with pytest.raises(program.ArchiveError):
            program.unpack(folder, BytesIO(content))
        assert listed(folder.parent) == []


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
