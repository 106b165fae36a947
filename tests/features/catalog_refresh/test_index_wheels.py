"""Wheels are listed from the index and read by range requests."""

import io
import random
from dataclasses import replace
from pathlib import Path

import pytest

from provision.catalog.index.settings import ClientSettings
from provision.features.catalog_refresh.index_wheels import BLOCK, IndexReadError, RangeFile, WheelIndex
from tests.features.catalog_refresh.conftest import vllm_wheel
from tests.stage.site import Site


@pytest.mark.slow
def test_a_file_read_by_ranges_equals_the_file(site: Site, index: WheelIndex) -> None:
    generator = random.Random(7)
    content = generator.randbytes(3 * BLOCK + 1234)
    site.content["/files/big"] = content
    file = io.BufferedReader(RangeFile(index._client, f"{site.url}/files/big"), BLOCK)
    for _ in range(200):
        at, size = generator.randrange(len(content)), generator.randrange(1, 2 * BLOCK)
        file.seek(at)
        assert file.read(size) == content[at : at + size]
    assert file.seek(-5, io.SEEK_END) == len(content) - 5
    assert file.read() == content[-5:]


def test_metadata_of_a_large_wheel_is_read_without_its_content(site: Site, index: WheelIndex) -> None:
    path = site.add_wheel(*vllm_wheel("0.40.0", "2.16.0"))
    (found,) = index.wheels("vllm")
    assert "Requires-Dist: torch==2.16.0" in (index.read(found.file, "METADATA") or "")
    assert index.read(found.file, "vllm/no_such.py") is None
    assert site.sent[path] < len(site.content[path])


def test_the_indexs_own_metadata_file_comes_first(site: Site, index: WheelIndex) -> None:
    name, content = vllm_wheel("0.40.0", "2.16.0")
    path = site.add_wheel(name, content)
    page = "/simple/vllm/"
    site.content[page] = site.content[page].replace(b"<a ", b'<a data-core-metadata="sha256=0" ')
    site.content[f"{path}.metadata"] = b"Name: vllm\nVersion: 0.40.0\nRequires-Dist: torch==9.9\n"
    (found,) = index.wheels("vllm")
    assert "torch==9.9" in (index.read(found.file, "METADATA") or "")
    assert site.requests[path] == 0


def test_yanked_files_are_marked(site: Site, index: WheelIndex) -> None:
    site.add_wheel(*vllm_wheel("0.40.0", "2.16.0"))
    site.content["/simple/vllm/"] = site.content["/simple/vllm/"].replace(b"<a ", b'<a data-yanked="broken" ')
    assert [found.file.yanked for found in index.wheels("vllm")] == [True]


def test_a_server_without_range_requests_is_named(site: Site, index: WheelIndex) -> None:
    site.add_wheel(*vllm_wheel("0.40.0", "2.16.0"))
    site.faults.no_range = True
    (found,) = index.wheels("vllm")
    with pytest.raises(IndexReadError, match=r"vllm-0\.40\.0.*sends no parts of files \(HTTP 200\)"):
        index.read(found.file, "METADATA")


def test_an_index_without_the_package_has_no_wheel(index: WheelIndex) -> None:
    assert index.wheels("vllm") == []


def test_an_error_is_reported_if_no_index_answers(site: Site, bare_client: Path) -> None:
    site.close()
    with pytest.raises(IndexReadError) as caught:
        WheelIndex(ClientSettings(index=f"{site.url.replace('//', '//someone:secret@')}/simple")).wheels("vllm")
    assert "no package index answers for `vllm`" in caught.value.text
    assert "secret" not in caught.value.render()


def test_a_damaged_wheel_on_the_index_is_named(site: Site, index: WheelIndex) -> None:
    name, content = vllm_wheel("0.40.0", "2.16.0")
    site.add_wheel(name, content[:-100] + bytes(100))
    (found,) = index.wheels("vllm")
    with pytest.raises(IndexReadError, match=f"`{name}` on your index is damaged"):
        index.read(found.file, "METADATA")


def test_an_index_that_stops_answering_is_named(site: Site, index: WheelIndex) -> None:
    site.add_wheel(*vllm_wheel("0.40.0", "2.16.0"))
    (found,) = index.wheels("vllm")
    gone = replace(found.file, url=f"http://127.0.0.1:9/{found.file.name}")
    with pytest.raises(IndexReadError, match=f"`{found.file.name}` cannot be fetched: "):
        index.read(gone, "METADATA")
