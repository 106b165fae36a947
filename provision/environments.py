"""Folders of environments under PREFIX/envs: each is named by its digest, and by a number behind it where it was built anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provision.models.facts import Installed

FILES, INJECTED = "libraries.files", "libraries.injected"
INSIDE = "in the environment"
"""Key of the evidence of `libraries.injected`: what lies in the environment's own folder."""


def digest_of(folder: str) -> str:
    """The digest of the environment in a folder: what computes the same has the same."""
    return folder.partition("-")[0]


def folder_for(digest: str, installed: Installed | None) -> str:
    """Where the environment of a digest belongs on a host: into the newest folder that it has there, or into a new one where that is damaged."""
    built = [_number(folder) for folder in (installed.environments if installed else ()) if digest_of(folder) == digest]
    newest = max(built, default=1)
    if installed and built and is_damaged(_folder(digest, newest), installed):
        newest += 1
    return _folder(digest, newest)


def is_damaged(folder: str, installed: Installed) -> bool:
    """Whether the last checks found files of an environment that are not as they were installed, or ones that nobody installed."""
    document = installed.last_verify or {}
    records = document.get("checks")
    if document.get("environment", installed.current) != folder or not isinstance(records, list):
        return False
    return any(_says_damage(record) for record in records if isinstance(record, dict))


def _says_damage(record: Mapping[str, Any]) -> bool:
    evidence = record.get("evidence")
    inside = isinstance(evidence, dict) and bool(evidence.get(INSIDE))
    return record.get("status") == "fail" and (record.get("id") == FILES or (record.get("id") == INJECTED and inside))


def _number(folder: str) -> int:
    number = folder.partition("-")[2]
    return int(number) if number.isdecimal() else 1


def _folder(digest: str, number: int) -> str:
    return digest if number == 1 else f"{digest}-{number}"
