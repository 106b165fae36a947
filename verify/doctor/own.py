"""What of a text is Firstlight's own. A plan and a summary speak of causes; they are no words of a program that failed."""

from __future__ import annotations

import io
import re

from verify.doctor.reading import Readable

HEAD_BYTES = 1 << 16
"""Where a plan or a summary begins, in texts that hold one."""
MOST_BYTES = 1 << 22
_SUMMARY = re.compile(rb"^(?:RED|AMBER|GREEN): .*\n(?:\S.*\n)?  run \d{8}T\d{6}Z", re.MULTILINE)
_PLAN = re.compile(rb"^  (?:refused +no Stack fits\n|vLLM +\S.*\n  torch +\S)", re.MULTILINE)
_FAILED = b"What failed"
_SAID_OF_IT = re.compile(rb"\s+(?:cause|fix|hint): ")
_ERROR = b"error: "


class _Joined:
    """What was read of a stream, then the rest of it."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self._head = io.BytesIO(head)
        self._rest = rest

    def read(self, size: int, /) -> bytes:
        return self._head.read(size) or self._rest.read(size)


def foreign(stream: Readable) -> tuple[Readable, bool]:
    """The stream without the lines of a plan or a summary of ours, and whether a person may have written what is left.

    Of a summary what failed is left: it quotes programs. Lines keep their numbers. A whole error message is no person's description.
    """
    head = stream.read(HEAD_BYTES)
    summary, plan = _SUMMARY.search(head), _PLAN.search(head)
    begin = summary or plan
    if begin is None:
        return _Joined(head, stream), not head.startswith(_ERROR)
    text = head + stream.read(MOST_BYTES)
    before, lines, failed = text[: begin.start()], text[begin.start() :].split(b"\n"), False
    left = []
    for line in lines:
        if line and not line.startswith(b" "):
            failed = line.startswith(_FAILED)
        quoted = failed and line.startswith(b" ") and not _SAID_OF_IT.match(line)
        other = plan is begin and not line.startswith(b"  ")
        left.append(line if quoted or other else b"")
    return io.BytesIO(before + b"\n".join(left)), False
