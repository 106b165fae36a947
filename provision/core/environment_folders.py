"""Folder names of environments below PREFIX/envs: the digest, plus a number where it was rebuilt."""

from __future__ import annotations

from provision.core.damage import environment_is_damaged
from provision.core.models.facts import Installed


def digest_of(folder: str) -> str:
    """Return the digest of the environment in a folder."""
    return folder.partition("-")[0]


def folder_for(digest: str, installed: Installed | None) -> str:
    """Return the folder of an environment on a host: the newest existing one, or a new one where that is damaged."""
    built = [_number(folder) for folder in (installed.environments if installed else ()) if digest_of(folder) == digest]
    newest = max(built, default=1)
    if installed and built and environment_is_damaged(_folder(digest, newest), installed):
        newest += 1
    return _folder(digest, newest)


def rebuild_reason(folder: str, installed: Installed | None) -> str | None:
    """Explain why an environment is rebuilt in this folder; None when the host does not have it, or has it intact."""
    there = [other for other in (installed.environments if installed else ()) if digest_of(other) == digest_of(folder)]
    if not there or folder in there:
        return None
    return f"environment {max(there, key=_number)} is damaged, and is built anew as {folder}"


def _number(folder: str) -> int:
    number = folder.partition("-")[2]
    return int(number) if number.isdecimal() else 1


def _folder(digest: str, number: int) -> str:
    return digest if number == 1 else f"{digest}-{number}"
