"""Files that hosts get by themselves, with the real programs and the real upload; processes here stand for the hosts."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from provision.core.errors import StageError
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.core.models.staged import StagedFile
from provision.features.peers.distribution import Distribution
from provision.fleet.ssh.local import LocalSession
from provision.fleet.ssh.session import Progress, SendReport
from provision.fleet.ssh.upload import send_by_stream
from provision.run.context import RunContext
from provision.run.sending import SentBytes
from tests.features.peers.test_peers import distribution, run_over
from tests.ssh.files import bytes_of, staged
from tests.stage.conftest import site
from tests.stage.site import Site

__all__ = ["site"]

HERE = Connection(kind="local")


class Process(LocalSession):
    """A session that sends as one over SSH does, to a folder of this machine."""

    def _send(self, files: Sequence[StagedFile], folder: str, progress: Progress) -> SendReport:
        return send_by_stream(self, self.stream, files, folder, progress)

    def stream(self, command: str, pieces: Iterator[bytes]) -> None:
        subprocess.run(["sh", "-c", command], input=b"".join(pieces), check=True)


@contextmanager
def sending(folder: Path, files: list[StagedFile], **settings: Any) -> Iterator[tuple[RunContext, Host, Distribution]]:
    """A distribution to one host; its incoming folder is `in`."""
    connection = Connection(kind="ssh", address="192.0.2.1")
    host = Host(name="gpu-1", connection=connection, settings=Settings(**settings))
    with run_over([host], folder) as context, pytest.MonkeyPatch.context() as patch:
        patch.setattr("provision.run.context.open_session", lambda one: Process(one.name, HERE))
        yield context, host, distribution(context, files, str(folder / "in"))


@pytest.fixture
def files(tmp_path: Path) -> list[StagedFile]:
    contents = {"a.whl": bytes_of(300_000, 1), "empty.whl": b"", "model/weights": bytes_of(600_000, 2)}
    return [staged(tmp_path, name, content) for name, content in contents.items()]


def arrived(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder / "in")): path for path in (folder / "in").rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != ".arrived"}


def contents(files: list[StagedFile]) -> dict[str, bytes]:
    return {file.name: Path(file.path).read_bytes() for file in files}


def share(folder: Path, files: list[StagedFile]) -> Path:
    for file in files:
        path = folder / "share" / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Path(file.path).read_bytes())
    return folder / "share"


def test_what_an_index_lacks_is_sent_by_the_controller(files: list[StagedFile], site: Site, tmp_path: Path) -> None:
    site.content = {"/a-whl/": b'<a href="a.whl">a</a>', "/a-whl/a.whl": Path(files[0].path).read_bytes()}
    with sending(tmp_path, files, source="host", source_index=[site.url]) as (context, host, distribution):
        reported: list[int] = []
        sent = distribution.send(host, reported.append)
    assert (sent.own_bytes, sent.bytes_sent) == (files[0].size, files[2].size)
    assert sum(reported) == sum(file.size for file in files), "bytes are reported once"
    seen = context.state(SentBytes).transfers
    assert (seen.host, seen.controller, seen.short) == (files[0].size, files[2].size, (host.name,))
    assert "no index has model/weights" in context.run.path("events.jsonl").read_text()
    assert arrived(tmp_path) == contents(files)


def test_everything_is_copied_from_a_folder(files: list[StagedFile], tmp_path: Path) -> None:
    settings = {"source": "path", "source_folder": str(share(tmp_path, files))}
    with sending(tmp_path, files, **settings) as (context, host, distribution):
        distribution.send(host, lambda _: None)
    seen = context.state(SentBytes).transfers
    assert (seen.path, seen.controller, seen.short) == (sum(file.size for file in files), 0, ())
    assert arrived(tmp_path) == contents(files)


def test_wrong_bytes_of_a_folder_are_replaced(files: list[StagedFile], tmp_path: Path) -> None:
    folder = share(tmp_path, files)
    (folder / "a.whl").write_bytes(b"x" * files[0].size)
    with sending(tmp_path, files, source="path", source_folder=str(folder)) as (context, host, distribution):
        distribution.send(host, lambda _: None)
    seen = context.state(SentBytes).transfers
    assert (seen.controller, seen.short) == (files[0].size, (host.name,))
    assert "gave wrong bytes" in context.run.path("events.jsonl").read_text()
    assert arrived(tmp_path) == contents(files)


def test_weights_that_nobody_has_fail_with_the_reason(files: list[StagedFile], tmp_path: Path) -> None:
    weights = files[2].model_copy(update={"path": "", "kind": "model"})
    folder = share(tmp_path, files[:2])
    settings = {"source": "path", "source_folder": str(folder)}
    with (
        sending(tmp_path, [*files[:2], weights], **settings) as (context, host, distribution),
        pytest.raises(StageError, match="did not get model/weights from its local source"),
    ):
        distribution.send(host, lambda _: None)
    assert "does not have model/weights" in context.run.path("events.jsonl").read_text()


def test_what_the_hub_answered_is_in_the_error_of_the_host(files: list[StagedFile], site: Site, tmp_path: Path) -> None:
    """Other files lack too, and come from the controller."""
    site.faults.wants = "Bearer of-an-account"
    weights = files[2].model_copy(update={"path": "", "kind": "model", "hub_path": "org/gated/resolve/1/weights"})
    settings = {"source": "host", "source_index": ["http://127.0.0.1:1/"], "source_hub": site.url}
    with (
        sending(tmp_path, [*files[:2], weights], **settings) as (_, host, distribution),
        pytest.raises(StageError, match=r"did not get model/weights .*\(HTTP Error 401: ") as raised,
    ):
        distribution.send(host, lambda _: None)
    assert "firstlight_source: {model: controller}" in str(raised.value.hint)


def test_a_folder_is_used_though_no_index_answers(files: list[StagedFile], tmp_path: Path) -> None:
    weights = files[2].model_copy(update={"path": "", "kind": "model"})
    settings = {
        "source": {"wheels": "host", "model": "path"},
        "source_index": ["http://127.0.0.1:1/"],
        "source_folder": str(share(tmp_path, files)),
    }
    with sending(tmp_path, [*files[:2], weights], **settings) as (context, host, distribution):
        distribution.send(host, lambda _: None)
    seen = context.state(SentBytes).transfers
    assert (seen.path, seen.controller) == (files[2].size, files[0].size)
    assert arrived(tmp_path) == contents(files)
