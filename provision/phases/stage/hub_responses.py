"""Parsed and validated answers of a model hub: the files of a revision, and what decides on the memory of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ListedFile:
    """A file of a revision: with a sha256 when it is large (`lfs`), else with its git blob hash. Size in bytes, 0 when unknown."""

    path: str
    size: int
    sha256: str | None
    blob: str | None


@dataclass(frozen=True)
class HubRevision:
    """One commit of a model repository, and the number of parameters by format where the hub counted them."""

    commit: str
    files: tuple[ListedFile, ...]
    parameters: dict[str, int]


@dataclass(frozen=True)
class HubModel:
    """What the wheelhouse keeps of a model before its weights are fetched: config.json, parameters by format, bytes of weights."""

    config: dict[str, Any]
    parameters: dict[str, int]
    bytes: int


def parse_revision(answer: Mapping[str, Any]) -> HubRevision:
    """Parse the listing of a revision.

    Raises:
        ValueError: The answer is no listing.
    """
    commit, rows = answer.get("sha"), answer.get("siblings")
    if not isinstance(commit, str) or not isinstance(rows, list):
        raise ValueError("the commit or the files are missing")  # noqa: TRY004 - one error for any invalid answer
    counted = answer.get("safetensors")
    return HubRevision(
        commit, tuple(_files(rows)), _counts(counted.get("parameters") if isinstance(counted, dict) else None)
    )


def parse_hub_model(kept: Mapping[str, Any]) -> HubModel:
    """Parse what the wheelhouse keeps of a model.

    Raises:
        ValueError: The value is not of this form.
    """
    config, total = kept.get("config"), _count(kept.get("bytes"))
    if not isinstance(config, dict) or total is None:
        raise ValueError("not a description of a model")
    return HubModel(config, _counts(kept.get("parameters")), total)


def _files(rows: list[Any]) -> Iterator[ListedFile]:
    for row in rows:
        path = row.get("rfilename") if isinstance(row, dict) else None
        if not isinstance(path, str):
            raise ValueError("a file has no name")  # noqa: TRY004 - one error for any invalid answer
        large = row.get("lfs") if isinstance(row.get("lfs"), dict) else {}
        size = _count(row.get("size")) or _count(large.get("size")) or 0
        sha256, blob = large.get("sha256"), row.get("blobId")
        yield ListedFile(path, size, *(value if isinstance(value, str) else None for value in (sha256, blob)))


def _counts(value: Any) -> dict[str, int]:
    """Return the counts by name; empty when one of them is invalid, since a partial count is misleading."""
    found = {str(name): _count(number) for name, number in value.items()} if isinstance(value, dict) else {}
    return {name: number for name, number in found.items() if number is not None} if None not in found.values() else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 60 else None
