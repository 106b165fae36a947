"""A published wheel as a Stack's package: from a folder, from its address, and refused when it is another one."""

import hashlib
import json
from pathlib import Path
from typing import NoReturn

import pytest

from provision.catalog.index.project_page import IndexClient, IndexSources
from provision.catalog.index.settings import ClientSettings
from provision.core.errors import StageError
from provision.core.models.stack import FlashAttnPackage
from provision.features.wheel_builder import wheel_builder as released_module
from provision.features.wheel_builder.wheel_builder import WheelBuilder
from provision.phases.stage.solve import LockedWheel
from provision.phases.stage.wheelhouse import Store
from tests.features.wheel_builder.conftest import no_interpreter, nobody
from tests.features.wheel_builder.keys import make_key
from tests.stage.site import Site, make_wheel
from tests.stage.stacks import make_stack

KEY = make_key(cuda_major=None, rocm="6.4", capabilities=("gfx1100",)).built_for
"""A key of cards with Triton kernels, so that a wheel without a compiled part is valid."""
VERSION = "2.8.3+rocm64torch2.8cxx11abitrue"


def provide(store: Store, package: FlashAttnPackage, *links: Path) -> LockedWheel:
    settings = ClientSettings()
    sources = IndexSources(settings, (), tuple(str(link) for link in links), {}, IndexClient(nobody_asks))
    name, content = make_wheel("torch", "2.8.0")
    (store.root.parent / name).write_bytes(content)
    path = store.add(store.root.parent / name)
    wheels = [LockedWheel("torch", "2.8.0", name, path.parent.name, "", len(content))]
    wheel_builder = WheelBuilder(store, nobody, interpreter=no_interpreter)
    return wheel_builder.provide(make_stack(None, None), package, wheels, sources, None)


def nobody_asks() -> NoReturn:
    raise AssertionError("no index is asked")


def published(
    folder: Path, version: str = VERSION, *, named: str = VERSION, requires: str = "torch", url: str | None = None
) -> FlashAttnPackage:
    """Put a wheel into a folder; `named` is the version in the name of its file."""
    own, content = make_wheel("flash-attn", version, requires=(requires,))
    name = own.replace(version, named, 1)
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return FlashAttnPackage(version="2.8.3", source="wheel", file=name, key=KEY, url=url)


def test_a_find_links_folder_is_searched_first(store: Store, tmp_path: Path) -> None:
    package = published(tmp_path / "links", url="http://127.0.0.1:1/no")
    locked = provide(store, package, tmp_path / "links")
    assert (locked.distribution, locked.version, locked.url) == ("flash-attn", VERSION, "")
    assert store.find(locked.sha256, locked.name)


def test_a_wheel_that_its_authors_renamed_is_locked_by_its_own_version(store: Store, tmp_path: Path) -> None:
    """Its authors build 2.8.3 and name the target only in the file name."""
    package = published(tmp_path / "links", "2.8.3", named="2.8.3+rocm64torch2.8cxx11abiTRUE")
    locked = provide(store, package, tmp_path / "links")
    assert (locked.version, locked.name) == ("2.8.3", "flash_attn-2.8.3-py3-none-any.whl")


def test_a_wheel_with_the_metadata_of_another_is_refused(store: Store, tmp_path: Path) -> None:
    package = published(tmp_path / "links", "2.7.0")
    with pytest.raises(StageError, match=r"has the metadata of flash-attn 2\.7\.0"):
        provide(store, package, tmp_path / "links")


def test_a_wheel_that_no_folder_has_is_fetched_once_from_its_address(
    store: Store, address: Site, tmp_path: Path
) -> None:
    package = published(tmp_path / "author")
    address.content["/w.whl"] = (tmp_path / "author" / package.file).read_bytes()
    package = package.model_copy(update={"url": f"{address.url}/w.whl"})
    first = provide(store, package)
    address.close()
    assert provide(store, package) == first


def test_a_file_that_changed_under_the_same_name_is_refused(store: Store, tmp_path: Path) -> None:
    package = published(tmp_path / "links")
    locked = provide(store, package, tmp_path / "links")
    (store.folder(locked.sha256) / locked.name).unlink()
    published(tmp_path / "links", requires="typing-extensions")
    with pytest.raises(StageError, match="has changed: sha256 is") as caught:
        provide(store, package, tmp_path / "links")
    assert "to accept the change, remove" in (caught.value.hint or "")


def test_an_address_that_does_not_answer_is_named_with_a_hint(store: Store, tmp_path: Path) -> None:
    package = published(tmp_path / "author", url="http://127.0.0.1:1/w.whl")
    with pytest.raises(StageError, match=r"could not be fetched from 127\.0\.0\.1") as caught:
        provide(store, package)
    assert "find-links" in (caught.value.hint or "")


def released(address: Site, file: str, digest: str) -> None:
    """A repository that has a file in its second release."""
    others = [{"name": "other.whl", "browser_download_url": f"{address.url}/other.whl"}]
    asset = {"name": file, "browser_download_url": f"{address.url}/w.whl", "digest": f"sha256:{digest}"}
    releases = [{"assets": others}, {"assets": [asset]}]
    address.content["/api/repos/somebody/wheels/releases"] = json.dumps(releases).encode()


@pytest.fixture
def community(address: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FlashAttnPackage:
    monkeypatch.setattr(released_module, "API", f"{address.url}/api")
    package = published(tmp_path / "somebody").model_copy(update={"community": "somebody/wheels"})
    address.content["/w.whl"] = (tmp_path / "somebody" / package.file).read_bytes()
    return package


def test_a_community_wheel_is_searched_in_all_releases(
    store: Store, address: Site, community: FlashAttnPackage
) -> None:
    digest = hashlib.sha256(address.content["/w.whl"]).hexdigest()
    released(address, community.file, digest)
    assert provide(store, community).sha256 == digest


def test_a_community_wheel_with_another_hash_than_announced_is_refused(
    store: Store, address: Site, community: FlashAttnPackage
) -> None:
    released(address, community.file, "0" * 64)
    with pytest.raises(StageError, match=f"differs from the file on somebody/wheels.*announced is `{'0' * 64}`"):
        provide(store, community)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"[]", "no release of somebody/wheels has `flash_attn-"),
        (b"{}", "not a list of releases"),
        (None, "HTTP 404"),
    ],
)
def test_releases_that_cannot_be_read_or_lack_the_wheel_are_an_error_with_a_hint(
    store: Store, address: Site, community: FlashAttnPackage, answer: bytes | None, text: str
) -> None:
    if answer is not None:
        address.content["/api/repos/somebody/wheels/releases"] = answer
    with pytest.raises(StageError, match=text) as caught:
        provide(store, community)
    assert "firstlight_builder: controller" in (caught.value.hint or "")


def test_a_wheel_for_another_stack_is_never_locked(store: Store, tmp_path: Path) -> None:
    package = published(tmp_path / "links", requires="torch==2.9.*")
    with pytest.raises(StageError, match=r"not fit the plan: it requires torch==2\.9\.\*, and the lock has 2\.8\.0"):
        provide(store, package, tmp_path / "links")
