import json
from pathlib import Path

import httpx
import pytest
import stamina

from provision.catalog.index.http_client import ATTEMPTS, open_client
from provision.catalog.index.project_page import IndexClient, IndexLocation, find_sources
from provision.catalog.index.settings import ClientSettings
from provision.phases.stage.solve import SolveRequest, Target, choose_wheels, solve
from tests.stage.site import Site, make_wheel

TAGS = Target.of("x86_64-manylinux_2_36", "3.11").tags()


@pytest.fixture
def index_client() -> IndexClient:
    return IndexClient(lambda: open_client(ClientSettings()))


def versions(index_client: IndexClient, location: IndexLocation, package: str) -> set[str]:
    (listing,) = index_client.fetch_pages([(location, package)])
    return {str(version) for version in listing.versions(package, TAGS)}


def test_an_html_page_of_an_index_is_read(site: Site, index_client: IndexClient) -> None:
    site.add_wheel(*make_wheel("torch", "2.7.0+cpu"))
    site.add_wheel(*make_wheel("torch", "2.8.0", tag="cp312-cp312-manylinux_2_28_x86_64"))
    site.content["/simple/torch/"] = (
        site.content["/simple/torch/"].replace(b"+cpu", b"%2Bcpu") + b'<a href="torch-2.9.0.tar.gz">sdist</a>'
    )
    assert versions(index_client, IndexLocation(f"{site.url}/simple"), "Torch") == {"2.7.0+cpu"}


def test_upload_times_are_read_from_an_html_page(site: Site, index_client: IndexClient) -> None:
    site.add_wheel(*make_wheel("dated"))
    page = site.content["/simple/dated/"]
    site.content["/simple/dated/"] = page.replace(b"<a ", b'<a data-upload-time="2025-06-10T01:02:03Z" ')
    [listing] = index_client.fetch_pages([(IndexLocation(f"{site.url}/simple"), "dated")])
    assert [offer.uploaded for offer in listing.files] == ["2025-06-10T01:02:03Z"]


def test_a_json_page_of_an_index_is_read(site: Site, index_client: IndexClient) -> None:
    page = {
        "meta": {"api-version": "1.1"},
        "name": "torch",
        "files": [{"filename": "torch-2.7.0+cpu-py3-none-any.whl", "url": "x"}],
    }
    site.content["/api/simple/torch/"] = json.dumps(page).encode()
    assert versions(index_client, IndexLocation(f"{site.url}/api/simple"), "torch") == {"2.7.0+cpu"}


@pytest.mark.parametrize("content", [b"<html>", b'["torch"]', b'{"files": [{"url": "x"}]}'])
def test_an_index_with_invalid_json_is_a_problem(content: bytes) -> None:
    answer = httpx.Response(200, content=content, headers={"Content-Type": "application/vnd.pypi.simple.v1+json"})
    index_client = IndexClient(lambda: httpx.Client(transport=httpx.MockTransport(lambda _: answer)))
    (listing,) = index_client.fetch_pages([(IndexLocation("https://odd.example/simple"), "torch")])
    assert (listing.problem or "").startswith("the answer is not a list of files")


def test_a_folder_of_wheels_is_read_with_and_without_a_scheme(index_client: IndexClient, tmp_path: Path) -> None:
    for name in ("torch-2.7.0+cpu-py3-none-any.whl", "torchvision-1.0-py3-none-any.whl", "notes.txt"):
        (tmp_path / name).touch()
    assert versions(index_client, IndexLocation(str(tmp_path), flat=True), "torch") == {"2.7.0+cpu"}
    assert versions(index_client, IndexLocation(tmp_path.as_uri(), flat=True), "torch") == {"2.7.0+cpu"}


def test_an_index_in_a_folder_is_read(index_client: IndexClient, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/index.html").write_text('<a href="../files/torch-2.7.0-py3-none-any.whl#sha256=00">torch</a>')
    assert versions(index_client, IndexLocation(tmp_path.as_uri()), "torch") == {"2.7.0"}
    (listing,) = index_client.fetch_pages([(IndexLocation(tmp_path.as_uri()), "vllm")])
    assert (listing.files, listing.problem) == ((), None)


def test_only_a_failing_index_is_a_problem_and_not_an_unknown_package(site: Site, index_client: IndexClient) -> None:
    site.faults.status["/broken/torch/"] = [503] * ATTEMPTS
    with stamina.set_testing(testing=True, attempts=ATTEMPTS, cap=True):
        absent, broken = index_client.fetch_pages(
            [(IndexLocation(f"{site.url}/simple"), "torch"), (IndexLocation(f"{site.url}/broken"), "torch")]
        )
    assert absent.problem is None
    assert broken.problem == "HTTP 503"


def test_a_busy_index_is_asked_again(site: Site, index_client: IndexClient) -> None:
    site.faults.status["/busy/torch/"] = [503, 429]
    site.content["/busy/torch/"] = b'<a href="torch-2.7.0-py3-none-any.whl">torch</a>'
    with stamina.set_testing(testing=True, attempts=ATTEMPTS, cap=True):
        assert versions(index_client, IndexLocation(f"{site.url}/busy"), "torch") == {"2.7.0"}


def test_a_host_that_did_not_answer_is_not_queried_again() -> None:
    asked: list[str] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        raise httpx.ConnectError("no route to user:s3cret@host", request=request)

    index_client = IndexClient(lambda: httpx.Client(transport=httpx.MockTransport(refuse)))
    for version in ("0.9.1", "0.9.0"):
        (listing,) = index_client.fetch_pages([(IndexLocation(f"https://silent.example/{version}/cpu"), "vllm")])
        assert listing.problem
    assert asked == ["https://silent.example/0.9.1/cpu/vllm/"]


def test_a_page_is_requested_once(site: Site, index_client: IndexClient) -> None:
    site.add_wheel(*make_wheel("torch"))
    for _ in range(3):
        index_client.fetch_pages([(IndexLocation(f"{site.url}/simple"), "torch")])
    assert site.requests["/simple/torch/"] == 1


@pytest.mark.usefixtures("bare_client")
def test_an_extra_index_that_forbids_what_it_lacks_is_used_after_the_others(site: Site) -> None:
    """uv looks no further after such an answer."""
    main, static, private, last = (f"{site.url}/{name}" for name in ("simple", "static", "private", "last"))
    site.add_wheel(*make_wheel("one"), index="static")
    site.add_wheel(*make_wheel("two"), index="last")
    site.faults.status = {"/static/pip/": [403], "/static/two/": [403] * ATTEMPTS, "/private/pip/": [401]}
    sources = find_sources(ClientSettings(index=main, extra_indexes=(static, private, last)))
    assert sources.indexes == (main, last, static)
    assert sources.notes == (f"{private} was left out: HTTP 401",)
    target = Target.of("x86_64-manylinux_2_36", "3.11")
    wheels = choose_wheels(solve(SolveRequest(target, ("one", "two")), sources.variables), target)
    assert {wheel.distribution for wheel in wheels} == {"one", "two"}
