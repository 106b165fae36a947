"""Environments on a host: the names of their folders below PREFIX/envs (the digest, plus a number where it was rebuilt); damaged files that a run replaces, and the files of models that are there."""

from collections.abc import Iterator, Mapping
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


def model_files_there(installed: Installed, model: str) -> set[str]:
    """Return the files of a model that a host has intact, by their names in the folder of that name: nobody sends them again.

    They were recorded when they were put in place. The probe detects changed and missing ones, the last checks compare content. When
    their list of problems is full, every file may be damaged.
    """
    folder = f"{installed.prefix.rstrip('/')}/models/{model}"
    written = {each.path for each in installed.drift if each.kind == "file"}
    problems = [
        str(problem)
        for id_, evidence in _failures(installed)
        if id_ == MODEL and evidence.get("folder") == folder
        for problem in evidence.get("problems") or ()
    ]
    wrong = written | {text.partition(": ")[0] for text in problems}
    taken = installed.model_files.get(model, ()) if len(problems) < MOST_LISTED else ()
    return {name for name in taken if f"{folder}/{name}" not in wrong}


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
