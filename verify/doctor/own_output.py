"""Recognition of Firstlight's own output in a log: a plan and a summary name causes, but are no sign of one."""

import io
import re

from verify.doctor.text_decoding import Readable

HEAD_BYTES = 1 << 16
"""A plan or a summary begins within this many bytes of a text that holds one."""
MAX_BYTES = 1 << 22
_SUMMARY = re.compile(rb"^(?:RED|AMBER|GREEN): .*\n(?:\S.*\n)?  run \d{8}T\d{6}Z", re.MULTILINE)
_PLAN = re.compile(
    rb"^  (?:refused +no (?:Stack|combination of versions) fits\n|vLLM +\S.*\n  torch +\S)", re.MULTILINE
)
_FAILED = b"What failed"
_ADVICE = re.compile(rb"\s+(?:cause|fix|hint): ")
_ERROR = b"error: "


class _Joined:
    """The bytes already read from a stream, then the rest of the stream."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self._head = io.BytesIO(head)
        self._rest = rest

    def read(self, size: int, /) -> bytes:
        return self._head.read(size) or self._rest.read(size)


def strip_own_output(stream: Readable) -> tuple[Readable, bool]:
    """Blank the lines of a plan or a summary; the numbers of other lines stay the same.

    The section "What failed" of a summary stays, because it quotes programs.

    Returns:
        The stream without own output, and whether the rest may be a description that a person wrote.
        An error message of Firstlight is not such a description.
    """
    head = stream.read(HEAD_BYTES)
    summary, plan = _SUMMARY.search(head), _PLAN.search(head)
    begin = summary or plan
    if begin is None:
        return _Joined(head, stream), not head.startswith(_ERROR)
    text = head + stream.read(MAX_BYTES)
    before, lines, in_failed = text[: begin.start()], text[begin.start() :].split(b"\n"), False
    kept = []
    for line in lines:
        if line and not line.startswith(b" "):
            in_failed = line.startswith(_FAILED)
        is_quoted = in_failed and line.startswith(b" ") and not _ADVICE.match(line)
        is_foreign = plan is begin and not line.startswith(b"  ")
        kept.append(line if is_quoted or is_foreign else b"")
    return io.BytesIO(before + b"\n".join(kept)), False
