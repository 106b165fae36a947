"""Environments on a host: the names of their folders below PREFIX/envs (the digest, plus a number where it was rebuilt), and damaged files that a run replaces."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from provision.core.models.facts import Installed

FILES, INJECTED, MODEL = "libraries.files", "libraries.injected", "serving.model"
MOST_LISTED = 100
"""Maximum number of problems in the evidence of `serving.model`."""
INSIDE = "in the environment"
"""Key in the evidence of `libraries.injected` for files in the environment's folder."""


def environment_is_damaged(folder: str, installed: Installed) -> bool:
    """Return whether an environment has changed or foreign files.

    The probe detects some of them as drift; the last checks compared all files.
    """
    inside = f"{installed.prefix.rstrip('/')}/envs/{folder}/"
    # modes are repaired
    if any(each.kind in ("file", "hook") and each.path.startswith(inside) for each in installed.drift):
        return True
    if (installed.last_verify or {}).get("environment", installed.current) != folder:
        return False
    return any(id_ == FILES or (id_ == INJECTED and evidence.get(INSIDE)) for id_, evidence in _failures(installed))


def damaged_model_files(installed: Installed, folder: str, names: Iterable[str]) -> set[str]:
    """Return the damaged ones of a model's files, which are named relative to its folder on the host.

    The probe detects changed and missing files, the last checks compare content. When their list of problems is full, every
    file may be damaged.
    """
    written = {each.path for each in installed.drift if each.kind == "file"}
    problems = [
        str(problem)
        for id_, evidence in _failures(installed)
        if id_ == MODEL and evidence.get("folder") == folder
        for problem in evidence.get("problems") or ()
    ]
    paths = {name: f"{folder}/{name}" for name in names}
    wrong = written | {text.partition(": ")[0] for text in problems}
    return {name for name, path in paths.items() if path in wrong or len(problems) >= MOST_LISTED}


def _failures(installed: Installed) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield failed checks with their evidence."""
    records = (installed.last_verify or {}).get("checks")
    for record in records if isinstance(records, list) else ():
        if isinstance(record, dict) and record.get("status") == "fail":
            evidence = record.get("evidence")
            yield str(record.get("id")), evidence if isinstance(evidence, dict) else {}


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
