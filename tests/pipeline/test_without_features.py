"""What the core does by itself where no feature takes part."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from provision.core import features
from provision.core.errors import UsageError
from provision.core.install_paths import InstallPaths
from provision.core.models.staged import StagedFile
from provision.fleet.ssh import SendReport
from provision.fleet.ssh.session import Progress
from provision.pipeline import CommandRequest
from provision.pipeline.runner import open_run
from provision.run.results import PlannedHosts
from provision.run.sending import Sending, SentBytes
from tests.pipeline.local_context import local_context

FILE = StagedFile(name="a.whl", path="/cache/a.whl", sha256="0" * 64, size=1000, kind="wheel")


class Session:
    """A host that has 100 bytes of a file."""

    host = "a"

    def send(self, files: Sequence[StagedFile], folder: str, *, progress: Progress | None = None) -> SendReport:
        assert progress is not None
        assert folder == "/var/tmp/in"
        progress(1000)
        return SendReport(tuple(file.name for file in files), 900, 0.0)

    def close(self) -> None:
        """Nothing is open."""


def test_the_controller_sends_what_a_host_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provision.run.context.open_session", lambda _: Session())
    paths = InstallPaths(prefix="/opt/firstlight", incoming="/var/tmp/in", owner="firstlight", root=True)
    context = local_context(tmp_path, "a")
    sending = Sending(context, PlannedHosts(install_paths={"a": paths}), {"a": [FILE]})
    reported: list[int] = []
    with context.stack:
        sent = sending.send(context.host("a"), reported.append)
        sending.close()
    assert (sent.bytes_sent, sent.by_source(), reported) == (900, "900 B from the controller", [1000])
    assert context.state(SentBytes).transfers.controller == 900


def test_a_bundle_that_nothing_reads_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "hooks", lambda _: iter(()))
    request = CommandRequest("provision", tmp_path, None, {}, tmp_path / "logs", bundle=tmp_path / "site.bundle")
    with pytest.raises(UsageError, match="no feature of this copy of the product reads bundles"), open_run(request):
        pass
    assert not request.logs.exists()
