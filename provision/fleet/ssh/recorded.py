"""Session that records every file it writes to its host; commands and reads are not recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

from provision.core.models.staged import StagedFile
from provision.fleet.ssh.channel import Channel
from provision.fleet.ssh.session import READ_BYTES, Completed, Progress, SendReport, Session


class Record(Protocol):
    """Receiver of one change, after it was made or failed."""

    def __call__(self, how: str, *, host: str, output: str = "", **data: Any) -> None: ...


class RecordedSession(Session):
    """Forwards all calls to another session, and records `send` and `write`."""

    def __init__(self, session: Session, record: Record) -> None:
        self.host = session.host
        self._session = session
        self._record = record

    def run(self, command: str, *, stdin: str | None = None, timeout_s: float = 60.0, root: bool = False) -> Completed:
        return self._session.run(command, stdin=stdin, timeout_s=timeout_s, root=root)

    def send(self, files: Sequence[StagedFile], folder: str, *, progress: Progress | None = None) -> SendReport:
        try:
            report = self._session.send(files, folder, progress=progress)
        except BaseException as error:
            # what arrived before the error is unknown
            self._record("send", host=self.host, folder=folder, changed=None, output=str(error))
            raise
        if report.sent:
            sums = {file.name: file.sha256 for file in files}
            sent = {name: sums.get(name) for name in report.sent}
            counted: dict[str, Any] = {"bytes": report.bytes_sent, "seconds": round(report.seconds, 3)}
            self._record("send", host=self.host, folder=folder, changed=True, sha256=sent, **counted)
        return report

    def write(self, path: str, content: bytes, *, mode: int = 0o644, root: bool = False) -> None:
        message: dict[str, Any] = {"path": path, "mode": f"{mode:04o}", "as_root": root, "bytes": len(content)}
        message["sha256"] = hashlib.sha256(content).hexdigest()
        try:
            self._session.write(path, content, mode=mode, root=root)
        except BaseException as error:
            self._record("write", host=self.host, **message, changed=None, output=str(error))
            raise
        self._record("write", host=self.host, **message, changed=True)

    def read(self, path: str, *, root: bool = False, timeout_s: float = 60.0, limit_bytes: int = READ_BYTES) -> bytes:
        return self._session.read(path, root=root, timeout_s=timeout_s, limit_bytes=limit_bytes)

    def open_channel(self, command: str, *, root: bool = False) -> Channel:
        return self._session.open_channel(command, root=root)

    def rest(self) -> None:
        self._session.rest()

    def close(self) -> None:
        self._session.close()
