"""Damaged files on a host that a run replaces: files of an environment and of a model."""

from __future__ import annotations

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
    # modes are repaired; earlier versions of this product kept the service's own file here
    drifted = {each.path for each in installed.drift if each.kind in ("file", "hook")} - {f"{inside}service.json"}
    if any(path.startswith(inside) for path in drifted):
        return True
    if (installed.last_verify or {}).get("environment", installed.current) != folder:
        return False
    return any(id_ == FILES or (id_ == INJECTED and evidence.get(INSIDE)) for id_, evidence in _failures(installed))


def damaged_model_files(installed: Installed, folder: str, names: Iterable[str]) -> set[str]:
    """Return the damaged files of a model.

    The probe detects changed and missing files, the last checks compare content. When their list of problems is full, every
    file may be damaged.

    Args:
        installed: What the probe found on the host.
        folder: The model's folder on the host.
        names: The model's files, relative to the folder.
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
