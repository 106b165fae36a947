"""libraries.files: the installed files are those that were installed."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import Distribution
from pathlib import Path
from typing import NamedTuple

from verify.distributions import installed
from verify.records import Check, Context, Figure, Outcome

SHOWN = 5


class Entry(NamedTuple):
    """A line of a RECORD: hash as it stands there (`sha256=...`, urlsafe base64 without padding), size in bytes."""

    path: str
    digest: str
    size: int


def _run(context: Context) -> Outcome:
    by_content = context.reaches("full")
    entries, unrecorded = [], []
    for found in installed().values():
        for distribution in found:
            recorded = list(record_entries(distribution))
            entries += recorded
            if not recorded:
                unrecorded.append(distribution.metadata["Name"])
    if "stale-library" in context.faults and entries:
        entries[0] = entries[0]._replace(size=entries[0].size + 1)
    wrong = check_files(entries, by_content=by_content)
    how = "content" if by_content else "size"
    figures = (Figure("files", len(entries), "count"), Figure("bytes", sum(entry.size for entry in entries), "B"))
    evidence = {"compared by": how, "wrong": wrong[:100], "without RECORD": unrecorded}
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        remedy = "install the environment anew from its lock: ./firstlight provision"
        return Outcome("fail", f"{'; '.join(wrong[:SHOWN])}{more}", figures, evidence, remedy)
    if unrecorded or not entries:
        text = f"no RECORD to compare with: {', '.join(unrecorded) or 'nothing is installed'}"
        return Outcome("warn", text, figures, evidence)
    return Outcome("ok", f"{len(entries)} files are as installed, by {how}", figures, evidence)


def record_entries(distribution: Distribution) -> Iterator[Entry]:
    """The files of a distribution whose RECORD line has a hash; compiled bytecode and the RECORD itself have none."""
    text = distribution.read_text("RECORD") or ""
    home = distribution.locate_file("")
    for row in csv.reader(text.splitlines()):
        if len(row) == 3 and row[1] and row[2]:
            yield Entry(f"{home}/{row[0]}", row[1], int(row[2]))


def check_files(entries: Iterable[Entry], *, by_content: bool) -> list[str]:
    """What is wrong, one text a file. Hashing releases the interpreter's lock, so threads share that work."""
    if not by_content:
        return [text for entry in entries if (text := _wrong(entry, by_content=False))]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return [text for text in pool.map(lambda entry: _wrong(entry, by_content=True), entries) if text]


def _wrong(entry: Entry, *, by_content: bool) -> str | None:
    try:
        size = os.stat(entry.path).st_size  # noqa: PTH116 - tens of thousands of files: a Path each costs as much again
    except OSError as error:
        return f"{entry.path}: {error.strerror}"
    if size != entry.size:
        return f"{entry.path}: {size} bytes, recorded {entry.size}"
    if not by_content:
        return None
    algorithm, _, expected = entry.digest.partition("=")
    with Path(entry.path).open("rb") as file:
        digest = hashlib.new(algorithm)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    actual = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
    return None if actual == expected else f"{entry.path}: its content is not the recorded one"


CHECK = Check(
    id="libraries.files",
    proves="Every installed file is there with the size that was recorded; on full with the recorded hash.",
    run=_run,
    level="standard",
    faults=("stale-library",),
    deadline_s=420.0,
)
