import base64
import hashlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from provision.catalog.index.http_client import open_client
from provision.catalog.index.settings import ClientSettings
from provision.core.errors import StageError
from provision.phases.stage import download
from provision.phases.stage.download import ATTEMPTS, fetch_all
from provision.phases.stage.solve import LockedWheel
from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site

CONTENT = os.urandom(3 << 20)


def wheel(name: str, url: str, sha256: str, size: int | None = None) -> LockedWheel:
    return LockedWheel("a", "1", name, sha256, url, size)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.0)


def client() -> httpx.Client:
    return open_client(ClientSettings())


def offer(site: Site, name: str = "a.whl", content: bytes = CONTENT) -> LockedWheel:
    site.content[f"/{name}"] = content
    return wheel(name, f"{site.url}/{name}", hashlib.sha256(content).hexdigest(), len(content))


def fetch(store: Store, *files: LockedWheel, make: Callable[[], httpx.Client] = client) -> dict[str, Path]:
    return fetch_all(store, files, make)


def test_files_are_fetched_verified_and_counted(site: Site, store: Store) -> None:
    files = [offer(site, f"{number}.whl", os.urandom(1 << 16)) for number in range(12)]
    seen: list[tuple[str, int, int]] = []
    found = fetch_all(store, files, client, progress=lambda *step: seen.append(step))
    assert {sha256: path.read_bytes() for sha256, path in found.items()} == {
        file.sha256: site.content[f"/{file.name}"] for file in files
    }
    assert seen[-1] == ("download", 12 << 16, 12 << 16)


def test_each_stored_file_is_reported_once(site: Site, store: Store) -> None:
    files = [offer(site, f"{number}.whl", os.urandom(1 << 16)) for number in range(6)]
    fetch(store, files[0])
    reported: list[tuple[str, bool]] = []
    fetch_all(store, files, client, on_stored=lambda path: reported.append((path.name, path.exists())))
    assert sorted(reported) == [(f"{number}.whl", True) for number in range(6)]


def test_present_files_are_not_requested(site: Site, store: Store) -> None:
    file = offer(site)
    fetch(store, file)

    def none() -> httpx.Client:
        raise AssertionError("no client is needed")

    assert fetch(store, file, make=none) == {file.sha256: store.folder(file.sha256) / "a.whl"}
    assert site.requests["/a.whl"] == 1


def test_a_dropped_connection_is_resumed_as_long_as_bytes_arrive(site: Site, store: Store) -> None:
    file = offer(site)
    site.faults.cut_after["/a.whl"] = [1 << 17] * (3 * ATTEMPTS)
    assert fetch(store, file)[file.sha256].read_bytes() == CONTENT
    assert len(site.ranges) == 3 * ATTEMPTS
    assert site.sent["/a.whl"] == len(CONTENT)


def test_unknown_sizes_are_requested_before_anything_is_fetched(site: Site, store: Store) -> None:
    small, large = offer(site, "small.whl", b"s"), offer(site, "large.whl")
    unknown = [wheel(file.name, file.url, file.sha256) for file in (small, large)]
    seen: list[tuple[str, int, int]] = []
    fetch_all(store, unknown, client, progress=lambda *step: seen.append(step))
    assert {total for _, _, total in seen} == {len(CONTENT) + 1}


def test_simultaneous_runs_fetch_a_file_once(site: Site, store: Store) -> None:
    file = offer(site)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fetch(store, file), range(4)))
    assert all(paths == found[0] for paths in found)
    assert site.sent["/a.whl"] == len(CONTENT)


def test_a_folder_that_cannot_be_written_is_named(site: Site, store: Store) -> None:
    file = offer(site)
    store.folder(file.sha256).parent.mkdir(parents=True)
    store.folder(file.sha256).symlink_to("/proc/self")
    with pytest.raises(StageError, match=rf"`a\.whl` cannot be written to the wheelhouse `{store.root}`"):
        fetch(store, file)


def test_a_partial_download_of_a_killed_run_is_resumed(site: Site, store: Store) -> None:
    file = offer(site)
    with store.slot(file.sha256, file.name) as slot:
        slot.part.write_bytes(CONTENT[: 2 << 20])
    assert fetch(store, file)[file.sha256].read_bytes() == CONTENT
    assert site.ranges == [f"bytes={2 << 20}-"]


def test_the_rest_of_a_partial_download_is_the_space_that_is_needed(
    site: Site, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = offer(site)
    with store.slot(file.sha256, file.name) as slot:
        slot.part.write_bytes(CONTENT[: 2 << 20])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=(1 << 20) - 1))
    with pytest.raises(StageError, match=r"download needs 1\.0 MiB in"):
        fetch(store, file)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    assert fetch(store, file)[file.sha256].read_bytes() == CONTENT


@pytest.mark.parametrize("rest", [b"of another file", CONTENT + b"more than there is"])
def test_a_partial_file_that_does_not_match_is_discarded(site: Site, store: Store, rest: bytes) -> None:
    file = offer(site)
    with store.slot(file.sha256, file.name) as slot:
        slot.part.write_bytes(rest)
    assert fetch(store, file)[file.sha256].read_bytes() == CONTENT


def test_a_server_without_ranges_sends_the_whole_file_again(site: Site, store: Store) -> None:
    file = offer(site)
    site.faults.no_range = True
    site.faults.cut_after["/a.whl"] = [1 << 20]
    assert fetch(store, file)[file.sha256].read_bytes() == CONTENT


def test_temporary_server_errors_are_retried(site: Site, store: Store) -> None:
    file = offer(site)
    site.faults.status["/a.whl"] = [500, 503, 429]
    assert fetch(store, file)[file.sha256].read_bytes() == CONTENT


def test_permanent_server_errors_are_reported_with_file_host_and_status(site: Site, store: Store) -> None:
    file = offer(site)
    site.faults.status["/a.whl"] = [500] * 99
    with pytest.raises(StageError, match=r"`a\.whl` could not be fetched from 127\.0\.0\.1: HTTP 500"):
        fetch(store, file)
    assert site.requests["/a.whl"] == ATTEMPTS


def test_a_missing_file_is_requested_once(site: Site, store: Store) -> None:
    file = wheel("gone.whl", f"{site.url}/gone.whl", "0" * 64, 1)
    with pytest.raises(StageError, match="HTTP 404"):
        fetch(store, file)
    assert site.requests["/gone.whl"] == 1


def test_another_file_than_the_locked_one_is_refused_and_not_stored(site: Site, store: Store) -> None:
    file = offer(site)
    site.content["/a.whl"] = b"x" * len(CONTENT)
    with pytest.raises(StageError, match="wrong hash") as caught:
        fetch(store, file)
    assert file.sha256 in caught.value.text
    assert store.find(file.sha256, file.name) is None
    assert not list(store.folder(file.sha256).glob("*.part"))


def test_the_failed_file_is_named_and_not_one_that_was_stopped_for_it(site: Site, store: Store) -> None:
    files = [offer(site, f"{number}.whl", os.urandom(1 << 20)) for number in range(6)]
    bad = wheel("bad.whl", f"{site.url}/bad.whl", "0" * 64, 1 << 30)
    with pytest.raises(StageError, match=r"`bad\.whl`"):
        fetch(store, *files, bad)


def test_an_unreachable_server_is_named(store: Store, silent: str) -> None:
    file = wheel("a.whl", silent.replace("://", "://user:secret@"), "0" * 64)
    with pytest.raises(StageError, match=r"`a\.whl` could not be fetched from 127\.0\.0\.1") as caught:
        fetch(store, file)
    assert "secret" not in caught.value.render()


def test_a_local_file_is_copied_and_verified(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "with space+cpu.whl"
    source.write_bytes(CONTENT)
    file = wheel(source.name, source.as_uri(), hashlib.sha256(CONTENT).hexdigest())
    path = fetch(store, file)[file.sha256]
    assert path.read_bytes() == CONTENT
    assert not path.samefile(source)


def test_credentials_of_an_index_are_sent_only_to_its_own_host(site: Site, store: Store) -> None:
    file = offer(site)
    site.faults.wants = "Basic dXNlcjpwQHNz"  # user:p@ss
    with_credentials = site.url.replace("://", "://user:p%40ss@") + "/simple"
    fetch(store, file, make=lambda: open_client(ClientSettings(), [with_credentials]))
    assert site.tokens == ["Basic dXNlcjpwQHNz"]
    other = offer(site, "b.whl", b"b")
    elsewhere = wheel(other.name, other.url.replace("127.0.0.1", "127.1"), other.sha256)
    with pytest.raises(StageError, match="HTTP 401"):
        fetch(store, elsewhere, make=lambda: open_client(ClientSettings(), [with_credentials]))
    assert site.tokens[-1] is None


@pytest.mark.parametrize(("repository", "user"), [("one", "ada"), ("two", "bob"), ("other", "bob")])
def test_each_repository_of_a_server_has_its_own_login(repository: str, user: str) -> None:
    server = "index.example/api/v4/projects"
    indexes = [f"https://{name}:x@{server}/{of}/pypi/simple" for name, of in (("ada", "one"), ("bob", "two"))]
    with open_client(ClientSettings(), [*indexes, f"https://{server}/one/pypi/simple"]) as client:
        request = client.build_request("GET", f"https://{server}/{repository}/pypi/files/a.whl")
        assert client.auth
        sent = next(client.auth.sync_auth_flow(request)).headers["Authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")).decode() == f"{user}:x"


@pytest.mark.parametrize(
    ("index", "sent"),
    [
        ("https://user:p%40ss@INDEX.example/simple", True),
        ("https://user:p%40ss@index.example:443/simple", True),
        ("https://user@corp.example:pass@index.example/simple", True),
        ("https://user:p%40ss@index.example:8443/simple", False),
    ],
)
def test_the_host_of_an_index_may_be_spelt_otherwise(index: str, sent: bool) -> None:
    with open_client(ClientSettings(), [index]) as client:
        request = client.build_request("GET", "https://index.example/simple/a/")
        assert client.auth
        assert ("Authorization" in next(client.auth.sync_auth_flow(request)).headers) is sent


def test_credentials_of_the_users_netrc_are_used(
    site: Site, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = offer(site)
    site.faults.wants = "Basic dXNlcjpwQHNz"  # user:p@ss
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password p@ss\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert fetch(store, file)[file.sha256].read_bytes() == CONTENT
