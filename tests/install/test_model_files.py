"""Moving a model's files into their folder."""

import fcntl
import hashlib
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.install.conftest import Site
from tests.install.modules import run_module

pytestmark = pytest.mark.slow


def row(content: bytes, name: str = "weights") -> dict[str, Any]:
    """A file of a model as the plan has it."""
    return {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def take(site: Site, files: list[dict[str, Any]], *, on_host: str | None = None, **options: Any) -> dict[str, Any]:
    folder, model = str(site.prefix / "models" / "mine"), {"files": files, "on_host": on_host}
    return run_module("firstlight_model_files", incoming=str(site.incoming), folder=folder, model=model, **options)


def test_model_files_are_moved_once_with_their_hashes_checked(site: Site) -> None:
    content = b"123456789"
    files = [row(content, "config.json")]
    site.incoming.mkdir(parents=True)
    (site.incoming / "config.json").write_bytes(content)
    assert take(site, files, check=True)["files"] == ["config.json"]
    assert take(site, files)["files"] == ["config.json"]
    assert (site.prefix / "models" / "mine" / "config.json").read_bytes() == content
    assert (site.prefix / "models" / "mine.manifest.txt").read_text() == "cbf43926 9 config.json\n"
    assert not (site.incoming / "config.json").exists()
    assert take(site, files)["files"] == []


def test_the_account_of_the_service_may_enter_the_folders_whatever_the_umask_is(site: Site) -> None:
    (site.incoming / "sub").mkdir(parents=True)
    (site.incoming / "sub" / "config.json").write_bytes(b"{}")
    folder = site.prefix / "models" / "mine"
    (folder / "sub").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    before = os.umask(0o077)
    try:
        assert "failed" not in take(site, [row(b"{}", "sub/config.json")])
    finally:
        os.umask(before)
    assert [each.stat().st_mode & 0o777 for each in (folder, folder / "sub")] == [0o755, 0o755]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
def test_a_file_that_the_login_sent_becomes_that_of_root(site: Site) -> None:
    weights = site.prefix / "models" / "mine" / "weights"
    site.incoming.mkdir(parents=True)
    (site.incoming / "weights").write_bytes(b"123456789")
    os.chown(site.incoming / "weights", 1000, 1000)
    assert take(site, [row(b"123456789")])["files"] == ["weights"]
    assert (weights.stat().st_uid, weights.stat().st_gid) == (0, 0)


def test_a_file_that_was_sent_as_a_link_to_the_one_in_place_leaves_nothing(site: Site) -> None:
    files = held(site)
    assert "failed" not in take(site, files)
    folder = site.prefix / "models" / "mine"
    (site.incoming / "weights").hardlink_to(folder / "weights")
    assert "failed" not in take(site, files)
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith("weights")) == ["weights"]


def test_a_model_file_with_another_hash_is_refused(site: Site) -> None:
    site.incoming.mkdir(parents=True)
    (site.incoming / "config.json").write_bytes(b"{}")
    done = take(site, [{"name": "config.json", "sha256": "0" * 64, "size": 2}])
    assert done["failed"] is True
    assert f"config.json has SHA-256 {hashlib.sha256(b'{}').hexdigest()}, not {'0' * 64}" in done["msg"]
    assert not (site.prefix / "models" / "mine" / "config.json").exists()


def test_a_model_of_which_no_file_was_sent_leaves_nothing(site: Site) -> None:
    assert "is not in" in take(site, [row(b"{}", "config.json")])["msg"]
    assert not (site.prefix / "models" / "mine").exists()


def test_an_interrupted_move_of_a_file_is_continued(site: Site) -> None:
    folder = site.prefix / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json.part").write_bytes(b"{}")
    done = take(site, [row(b"{}", "config.json")])
    assert "failed" not in done, done
    assert (folder / "config.json").read_bytes() == b"{}"


def held(site: Site) -> list[dict[str, Any]]:
    """A model of one file that was moved into place."""
    site.incoming.mkdir(parents=True)
    (site.incoming / "weights").write_bytes(b"123456789")
    files = [row(b"123456789")]
    assert "failed" not in take(site, files)
    return files


def test_a_damaged_file_of_the_same_size_is_named_and_the_next_run_sends_it(site: Site) -> None:
    files = held(site)
    weights = site.prefix / "models" / "mine" / "weights"
    weights.write_bytes(b"123456780")
    done = take(site, files)
    assert "model file weights is damaged: it has SHA-256" in done["msg"]
    assert json.loads((weights.parent / ".complete").read_text()) == {}
    (site.incoming / "weights").write_bytes(b"123456789")
    assert take(site, files)["files"] == ["weights"]
    assert weights.read_bytes() == b"123456789"


def test_a_file_that_was_not_sent_is_removed(site: Site) -> None:
    files = held(site)
    added = site.prefix / "models" / "mine" / "generation_config.json"
    added.write_text("{}")
    assert take(site, files)["files"] == ["generation_config.json"]
    assert not added.exists()
    assert take(site, files)["files"] == []


def test_a_file_with_only_a_new_time_is_no_change(site: Site) -> None:
    files = held(site)
    (site.prefix / "models" / "mine" / "weights").touch()
    assert take(site, files)["files"] == []


def test_a_file_of_another_model_that_was_sent_and_never_taken_is_removed(site: Site) -> None:
    files = held(site)
    (site.incoming / "weights").write_bytes(b"987654321")
    assert take(site, files)["files"] == []
    assert (site.prefix / "models" / "mine" / "weights").read_bytes() == b"123456789"
    assert not (site.incoming / "weights").exists()


def test_what_an_interrupted_run_left_running_is_waited_for(site: Site) -> None:
    files, lock = held(site), site.prefix / "models" / ".lock"
    lock.chmod(0o644)  # as earlier releases left it: whoever may read it may lock it
    with lock.open("w") as other, ThreadPoolExecutor() as pool:
        fcntl.flock(other, fcntl.LOCK_EX)
        taking = pool.submit(take, site, files)
        with pytest.raises(TimeoutError):
            taking.result(timeout=3)
        fcntl.flock(other, fcntl.LOCK_UN)
        assert taking.result()["files"] == []
    assert lock.stat().st_mode & 0o777 == 0o600


def test_what_the_system_refuses_is_told(site: Site) -> None:
    (site.prefix / "models").mkdir(parents=True)
    (site.prefix / "models" / "mine").write_text("a file")
    done = take(site, [row(b"123456789")])
    assert "models/mine cannot be put in place: [Errno " in done["msg"]


def test_a_file_that_was_sent_again_replaces_an_old_one_that_looks_correct(site: Site) -> None:
    """The content was damaged on the disk without a write."""
    files = held(site)
    (site.incoming / "weights").write_bytes(b"123456789")
    assert take(site, files)["files"] == ["weights"]


@pytest.fixture
def share(site: Site) -> Path:
    """A folder of the host that has the model, as the hub's own cache holds it: links to files."""
    share, blobs = site.prefix.parent / "share", site.prefix.parent / "blobs"
    share.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "one").write_bytes(b"123456789")
    (share / "weights").symlink_to(blobs / "one")
    return share


SHARED = [row(b"123456789")]


def test_files_that_the_host_has_are_linked_once(site: Site, share: Path) -> None:
    assert take(site, SHARED, on_host=str(share), check=True)["files"] == ["weights"]
    assert take(site, SHARED, on_host=str(share))["files"] == ["weights"]
    link = site.prefix / "models" / "mine" / "weights"
    assert (link.readlink(), link.read_bytes()) == (share / "weights", b"123456789")
    assert (site.prefix / "models" / "mine.manifest.txt").read_text() == "cbf43926 9 weights\n"
    assert take(site, SHARED, on_host=str(share))["files"] == []
    link.unlink()
    assert take(site, SHARED, on_host=str(share))["files"] == ["weights"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "model file weights is not in {share}"),
        (b"1234", "{share}/weights has SHA-256 " + hashlib.sha256(b"1234").hexdigest()),
        (b"123456780", "{share}/weights has SHA-256 " + hashlib.sha256(b"123456780").hexdigest()),
    ],
)
def test_another_model_on_the_host_is_refused_and_left_as_it_is(
    site: Site, share: Path, content: bytes | None, text: str
) -> None:
    (share / "weights").unlink()
    if content is not None:
        (share / "weights").write_bytes(content)
    done = take(site, SHARED, on_host=str(share))
    assert text.format(share=share) in done["msg"]
    assert done["hint"]
    assert not (site.prefix / "models" / "mine" / "weights").exists()
    assert [path.read_bytes() for path in share.iterdir()] == ([] if content is None else [content])


def test_a_file_that_changes_on_the_host_later_is_noticed(site: Site, share: Path) -> None:
    take(site, SHARED, on_host=str(share))
    (share / "weights").write_bytes(b"123456780")
    assert "has SHA-256" in take(site, SHARED, on_host=str(share))["msg"]


@pytest.mark.parametrize(
    ("place", "unit", "text", "hint"),
    [
        (
            "/home/ada/mine",
            "ProtectHome=yes",
            "and the service sees no file below /home",
            "name their folder below /home",
        ),
        (
            "/var/tmp/mine",
            "PrivateTmp=yes",
            "and the service sees no file below /var/tmp",
            "move the files out of /var/tmp",
        ),
        ("/home/ada/mine", "ProtectHome=read-only", "model file weights is not in", "complete the model there"),
    ],
)
def test_a_file_that_the_unit_hides_from_the_service_is_refused(
    site: Site, place: str, unit: str, text: str, hint: str
) -> None:
    (site.folder / "share").symlink_to(place)
    done = take(site, SHARED, on_host=str(site.folder / "share"), unit=f"[Service]\n{unit}\n")
    assert text in done["msg"]
    assert hint in done["hint"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
def test_a_file_that_the_service_cannot_read_is_refused(site: Site) -> None:
    with tempfile.TemporaryDirectory() as share:  # a folder of a test's own is closed to other accounts
        Path(share).chmod(0o755)
        weights = Path(share, "weights")
        weights.write_bytes(b"123456789")
        assert take(site, SHARED, on_host=share, reader="nobody")["files"] == ["weights"]
        (site.prefix / "models" / "mine" / "weights").unlink()
        weights.chmod(0o600)
        done = take(site, SHARED, on_host=share, reader="nobody")
    assert f"{weights} cannot be read by account nobody, which the service runs as" in done["msg"]
