"""Expected content of an environment's files, from the manifest of its build or from its wheels' RECORDs."""

import base64
import csv
import hashlib
import os
import stat
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import Distribution
from pathlib import Path
from typing import NamedTuple

MANIFEST = "manifest.txt"
CRC = "crc32"


class Content(NamedTuple):
    """Expected content: size in bytes, and a digest as in a RECORD (`sha256=...`, urlsafe base64 without padding) or `crc32=` and 8 hex digits."""

    digest: str
    size: int


Contents = Mapping[str, tuple[Content, ...]]
"""By path. A file of several wheels may have any of their contents."""


def listed(file: Path, home: Path) -> Contents | None:
    """Return the files below `home` that a manifest lists; None if there is no such manifest."""
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
    lines = (line.split(" ", 2) for line in text.splitlines())
    return {f"{home}/{path}": (Content(f"{CRC}={crc}", int(size)),) for crc, size, path in lines}


def record_contents(distributions: Iterable[Distribution]) -> Contents:
    """Return the files with a hash in a RECORD; compiled byte code and the RECORD itself have none."""
    found: dict[str, tuple[Content, ...]] = {}
    for distribution in distributions:
        home = distribution.locate_file("")
        for row in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
            if len(row) == 3 and row[1] and row[2]:
                path = f"{home}/{row[0]}"
                found[path] = (*found.get(path, ()), Content(row[1], int(row[2])))
    return found


def wrong_sizes(contents: Contents) -> dict[str, str]:
    """Return the differences in size by path."""
    return {path: text for path, any_of in contents.items() if (text := _wrong(path, any_of, by_content=False))}


def wrong_contents(contents: Contents) -> dict[str, str]:
    """Return the differences by path. Hashing releases the interpreter's lock, so threads share the work."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        texts = pool.map(lambda item: _wrong(*item, by_content=True), contents.items())
        return {path: text for path, text in zip(contents, texts, strict=True) if text}


def _wrong(path: str, any_of: tuple[Content, ...], *, by_content: bool) -> str | None:
    try:
        # A manifest lists a link by its target. No Path objects: for tens of thousands of files they cost as much again.
        found = os.lstat(path) if any_of[0].digest.startswith(CRC) else os.stat(path)  # noqa: PTH116
        is_link = stat.S_ISLNK(found.st_mode)
        same_size = [content for content in any_of if content.size == found.st_size]
        if not same_size:
            return f"{path}: {found.st_size} bytes, recorded {any_of[0].size}"
        if not by_content:
            return None
        if is_link:
            return None if _crc_of_link(path) == same_size[0].digest else f"{path}: it points elsewhere than recorded"
        if any(_digest(path, content.digest.partition("=")[0]) == content.digest for content in same_size):
            return None
    except OSError as error:
        return f"{path}: {error.strerror}"
    return f"{path}: its content is not the recorded one"


def _crc_of_link(path: str) -> str:
    return f"{CRC}={zlib.crc32(os.fsencode(os.readlink(path))):08x}"  # noqa: PTH115 - see above


def _digest(path: str, algorithm: str) -> str:
    """Return a file's digest as in Content."""
    crc, digest = 0, None if algorithm == CRC else hashlib.new(algorithm)
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            if digest:
                digest.update(chunk)
            else:
                crc = zlib.crc32(chunk, crc)
    if digest is None:
        return f"{CRC}={crc:08x}"
    return f"{algorithm}={base64.urlsafe_b64encode(digest.digest()).rstrip(b'=').decode()}"
