import fcntl
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provision.core.errors import StageError
from provision.phases.stage.wheelhouse import UNUSED_DAYS, Store, default_limit


def put(store: Store, folder: Path, content: bytes, name: str = "a-1-py3-none-any.whl") -> tuple[str, Path]:
    source = folder / name
    source.write_bytes(content)
    return hashlib.sha256(content).hexdigest(), store.add(source)


def test_a_file_is_stored_once_by_its_hash(store: Store, tmp_path: Path) -> None:
    sha256, path = put(store, tmp_path, b"wheel")
    assert path == store.root / "files" / sha256[:2] / sha256 / "a-1-py3-none-any.whl"
    assert store.find(sha256, path.name) == path
    again = store.add(tmp_path / path.name)
    assert again == path
    assert store.staged(path, "wheel").model_dump() == {
        "name": path.name, "path": str(path), "sha256": sha256, "size": 5, "kind": "wheel", "hub_path": "",
    }  # fmt: skip


@pytest.mark.parametrize("damage", [b"wheeX", b"whe", b""])
def test_a_damaged_file_counts_as_absent_and_can_be_stored_again(store: Store, tmp_path: Path, damage: bytes) -> None:
    sha256, path = put(store, tmp_path, b"wheel")
    path.write_bytes(damage)
    os.utime(path, ns=(1, 1))
    assert store.find(sha256, path.name) is None
    assert not path.exists()
    put(store, tmp_path, b"wheel")
    assert store.find(sha256, path.name) == path


def test_a_file_that_lost_a_bit_without_a_new_time_is_found_when_it_is_distrusted(store: Store, tmp_path: Path) -> None:
    sha256, path = put(store, tmp_path, b"wheel")
    before = path.stat()
    path.write_bytes(b"wheeX")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.find(sha256, path.name) == path
    store.distrust(path)
    assert store.find(sha256, path.name) is None
    assert not path.exists()
    own = tmp_path / "verified"
    own.touch()
    store.distrust(tmp_path / "own.whl")
    assert own.exists(), "only the wheelhouse's own notes are removed"


def test_a_correct_file_is_kept_if_it_was_touched_or_a_crash_left_it_without_its_stamp(
    store: Store, tmp_path: Path
) -> None:
    sha256, path = put(store, tmp_path, b"wheel")
    os.utime(path, ns=(1, 1))
    assert store.find(sha256, path.name) == path
    (path.parent / "verified").unlink()
    assert store.find(sha256, path.name) == path
    assert (path.parent / "verified").exists()


def test_processes_that_store_the_same_file_at_once_agree(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "big.whl"
    source.write_bytes(os.urandom(8 << 20))
    script = "import sys; from pathlib import Path; from provision.phases.stage.wheelhouse import Store; print(Store(Path(sys.argv[1]), limit_bytes=1).add(Path(sys.argv[2])))"
    command = [sys.executable, "-c", script, str(store.root), str(source)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    paths = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == source.read_bytes()


def test_pruning_removes_least_recently_used_files_first_and_keeps_files_that_a_host_needs(
    store: Store, tmp_path: Path
) -> None:
    hashes = []
    for number in range(4):
        sha256, path = put(store, tmp_path, bytes([number]) * 1000, f"{number}.whl")
        os.utime(path.parent / "verified", (1000 + number, 1000 + number))
        hashes.append(sha256)
    store.references.add("gpu-1", "e" * 16, [hashes[0]])
    store.limit_bytes = 2500
    assert store.prune() > 1000
    assert [number for number, sha256 in enumerate(hashes) if store.find(sha256, f"{number}.whl")] == [0, 3]


def test_a_late_pruning_keeps_a_file_that_was_used_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = put(store, tmp_path, b"wheel")
    flock = fcntl.flock

    def used_first(lock: IO[str], how: int) -> None:
        os.utime(path.parent / "verified", (1000, 1000))
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", used_first)
    store.limit_bytes = 1
    assert store.prune() == 0
    assert path.exists()


def test_pruning_keeps_a_file_that_is_being_stored(store: Store, tmp_path: Path) -> None:
    sha256, path = put(store, tmp_path, b"wheel")
    store.limit_bytes = 0
    with store.slot(sha256, path.name):
        assert store.prune() == 0
        assert path.exists()
    assert store.prune() > 0
    assert not path.exists()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4000), min_size=1, max_size=8),
    needed=st.sets(st.integers(0, 7)),
    limit=st.integers(0, 9000),
)
def test_pruning_never_removes_a_needed_file_and_keeps_the_limit_if_possible(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], needed: set[int], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("prune")
    store = Store(folder / "cache", limit_bytes=limit)
    stored = [put(store, folder, bytes([number]) * size, f"{number}.whl") for number, size in enumerate(sizes)]
    kept = {number for number in needed if number < len(stored)}
    store.references.add("host", "digest", [stored[number][0] for number in kept])
    store.prune()
    left = {number for number, (_, path) in enumerate(stored) if path.exists()}
    assert kept <= left
    if left - kept:
        assert sum(sizes[number] for number in left) <= limit


def test_a_host_that_no_run_uses_any_more_needs_nothing(store: Store) -> None:
    for host in ("dead", "alive"):
        store.references.add(host, "one", [host])
    long_ago = time.time() - (UNUSED_DAYS + 1) * 24 * 3600
    for record in (store.root / "references").iterdir():
        os.utime(record, (long_ago, long_ago))
    store.references.add("alive", "one", ["alive"])
    assert store.references.needed() == {"alive"}


def test_references_of_removed_environments_and_hosts_are_dropped(store: Store) -> None:
    store.references.add("web/1", "one", ["a"])
    store.references.add("web/1", "two", ["b"])
    store.references.add("gpu-2", "one", ["c"])
    store.references.keep_only("web/1", ["two"])
    assert store.references.needed() == {"b", "c"}
    store.references.forget("gpu-2")
    store.references.forget("never-seen")
    assert store.references.needed() == {"b"}


def test_a_damaged_note_does_not_stop_pruning(store: Store) -> None:
    store.references.add("gpu-1", "one", ["a"])
    (store.root / "references/gpu-2.json").write_text('{"one": ["b"')
    assert store.references.needed() == {"a"}


def test_a_disk_that_is_too_small_is_reported_before_anything_is_fetched(store: Store) -> None:
    with pytest.raises(StageError, match=r"needs 1048576\.0 TiB in .* are free there") as caught:
        store.require_space(1 << 60, "download")
    assert "FIRSTLIGHT_CACHE" in (caught.value.hint or "")


def test_the_limit_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRSTLIGHT_CACHE_GIB", "0.5")
    assert default_limit() == 1 << 29


@pytest.mark.parametrize("text", ["many", "0", "-1", "nan", "inf", "1e308"])
def test_a_wrong_limit_is_an_error_with_the_value(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRSTLIGHT_CACHE_GIB", text)
    with pytest.raises(StageError, match=f"FIRSTLIGHT_CACHE_GIB is `{text}`"):
        default_limit()


@given(sha256=st.text(max_size=70), name=st.text(max_size=20))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_hash_and_no_name_is_outside_the_wheelhouse(store: Store, sha256: str, name: str) -> None:
    for digest in (sha256, hashlib.sha256(sha256.encode("utf-8", "replace")).hexdigest()):
        try:
            path = store.path(digest, name)
        except StageError:
            continue
        assert path.resolve().is_relative_to((store.root / "files").resolve())
        assert path.parent.name == digest
        assert path.name not in {"verified", ".lock"}


@pytest.mark.parametrize("name", ["..", ".", "", "../x", "a/b", "verified", ".lock", "a\0b"])
def test_an_invalid_file_name_is_refused(store: Store, name: str) -> None:
    with pytest.raises(StageError, match="not a safe file name"):
        store.find("0" * 64, name)
