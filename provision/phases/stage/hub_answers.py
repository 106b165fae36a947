"""What a hub answers, read without trust: the files of a model's revision, and what decides on the model's memory. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ListedFile:
    """A file of a revision: a large one with its sha256 (`lfs`), another with the hash of its git blob. Size in bytes, 0 where it is not given."""

    path: str
    size: int
    sha256: str | None
    blob: str | None


@dataclass(frozen=True)
class Revision:
    """One commit of a model's repository, and how many numbers of each format its weights hold, where the hub counted them."""

    commit: str
    files: tuple[ListedFile, ...]
    parameters: dict[str, int]


@dataclass(frozen=True)
class Description:
    """What the wheelhouse remembers of a model before its weights are fetched: config.json, numbers by format, bytes of the weights."""

    config: dict[str, Any]
    parameters: dict[str, int]
    bytes: int


def revision(answer: Mapping[str, Any]) -> Revision:
    """The listing of a revision. Raises ValueError when it is none."""
    commit, rows = answer.get("sha"), answer.get("siblings")
    if not isinstance(commit, str) or not isinstance(rows, list):
        raise ValueError("it names no commit, or no files")  # noqa: TRY004 - one error for whatever the answer holds
    counted = answer.get("safetensors")
    return Revision(
        commit, tuple(_files(rows)), _counts(counted.get("parameters") if isinstance(counted, dict) else None)
    )


def description(kept: Mapping[str, Any]) -> Description:
    """What was remembered under a model's name. Raises ValueError when it is something else."""
    config, total = kept.get("config"), _count(kept.get("bytes"))
    if not isinstance(config, dict) or total is None:
        raise ValueError("it is no description of a model")
    return Description(config, _counts(kept.get("parameters")), total)


def _files(rows: list[Any]) -> Iterator[ListedFile]:
    for row in rows:
        path = row.get("rfilename") if isinstance(row, dict) else None
        if not isinstance(path, str):
            raise ValueError("a file of it has no name")  # noqa: TRY004 - one error for whatever the answer holds
        large = row.get("lfs") if isinstance(row.get("lfs"), dict) else {}
        size = _count(row.get("size")) or _count(large.get("size")) or 0
        sha256, blob = large.get("sha256"), row.get("blobId")
        yield ListedFile(path, size, *(value if isinstance(value, str) else None for value in (sha256, blob)))


def _counts(value: Any) -> dict[str, int]:
    """Numbers by name; empty where one of them is none, since a part of them says nothing."""
    found = {str(name): _count(number) for name, number in value.items()} if isinstance(value, dict) else {}
    return {name: number for name, number in found.items() if number is not None} if None not in found.values() else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 60 else None
