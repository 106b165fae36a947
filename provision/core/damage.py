"""What the probe or the last checks of a host found damaged that a run brings anew: the files of an environment, those of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from provision.core.models.facts import Installed

FILES, INJECTED, MODEL = "libraries.files", "libraries.injected", "serving.model"
MOST_LISTED = 100
"""Problems that the evidence of `serving.model` holds."""
INSIDE = "in the environment"
"""Key of the evidence of `libraries.injected`: what lies in the environment's own folder."""


def environment_is_damaged(folder: str, installed: Installed) -> bool:
    """Whether files of the environment in a folder are not as they were installed, or lie there though nobody installed them.

    The probe sees some of them as drift; the last checks looked at all.
    """
    inside = f"{installed.prefix.rstrip('/')}/envs/{folder}/"
    # Modes are set right and the service's own file is written again in place.
    drifted = {each.path for each in installed.drift if each.kind in ("file", "hook")} - {f"{inside}service.json"}
    if any(path.startswith(inside) for path in drifted):
        return True
    if (installed.last_verify or {}).get("environment", installed.current) != folder:
        return False
    return any(id_ == FILES or (id_ == INJECTED and evidence.get(INSIDE)) for id_, evidence in _failures(installed))


def damaged_model_files(installed: Installed, folder: str, names: Iterable[str]) -> set[str]:
    """Of the files of a model in a folder of the host, by their names below it, those that are not as they were installed.

    The probe sees that one was written to or is gone, the last checks that its content is another. Where those list no more of them,
    it may be any.
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
    """Failed checks with their evidence."""
    records = (installed.last_verify or {}).get("checks")
    for record in records if isinstance(records, list) else ():
        if isinstance(record, dict) and record.get("status") == "fail":
            evidence = record.get("evidence")
            yield str(record.get("id")), evidence if isinstance(evidence, dict) else {}
