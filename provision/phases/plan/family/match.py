"""The family of a model: by config.json, and by the model's name where config.json cannot tell."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provision.phases.plan.family.tables import Family, config_types, families


@dataclass(frozen=True)
class Match:
    """The family of a model; without one, the families that config.json allows and the name does not say."""

    family: str | None = None
    possible: tuple[str, ...] = ()
    code: str | None = None
    """Why vLLM needs Python code of the model's repository; None if it does not."""


UNKNOWN = Match()


def match(config: Mapping[str, Any], model: str) -> Match:
    """Return the family of a model.

    Args:
        config: The content of config.json.
        model: The setting `model`: a folder or a hub id.
    """
    name = model.partition("@")[0].rstrip("/").rpartition("/")[2]
    fitting = [row for row in families().values() if _fits(row, config)]
    family = next((row for row in fitting if row.pattern is None or row.pattern.search(name)), None)
    code = (family.code if family else None) or _code_of_config(config)
    if family:
        return Match(family.name, code=code)
    return Match(possible=tuple(row.name for row in fitting if not row.derived), code=code)


def _fits(row: Family, config: Mapping[str, Any]) -> bool:
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else None
    return architecture in row.architectures and all(
        any(_at(config, path) == value for path in paths.split("|")) for paths, value in (row.config or {}).items()
    )


def _at(config: Any, path: str) -> Any:
    for step in path.split("."):
        config = config.get(step) if isinstance(config, Mapping) else None
    return config


def _code_of_config(config: Mapping[str, Any]) -> str | None:
    """Return why the configuration itself is code: vLLM does not know its type, and config.json names a class of the repository."""
    kind, classes = config.get("model_type"), config.get("auto_map")
    if (
        not isinstance(classes, Mapping)
        or "AutoConfig" not in classes
        or (isinstance(kind, str) and kind in config_types())
    ):
        return None
    return f"its configuration of type `{kind}` is Python code of the repository"
