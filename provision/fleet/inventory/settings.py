"""Validation of settings: one message with every problem of every host, with variable, value and allowed values."""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from provision.core.errors import InventoryError
from provision.core.models.settings import HUB_ID, OPTIONS, Settings, allowed, typed
from provision.core.user_path import expand_user
from provision.fleet.inventory.conflicts import conflicts

PREFIX = "firstlight_"
_VALUE = re.compile(rf"(?:set )?{PREFIX}(\w+): ([\w.-]+)")
"""A setting with its value, as an inventory file has it."""
_MOST_SHOWN = 8
_FOLDER = ("/", ".", "~")
"""How the path of a folder begins that can be no hub id."""


@dataclass(slots=True)
class Problems:
    """Problems, each once with all its hosts, in the order found."""

    by_text: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)

    def add(self, host: str, variable: str, text: str, hint: str) -> None:
        """Add a problem of a host."""
        self.by_text.setdefault((variable, text, hint), []).append(host)

    def raise_any(self, places: Callable[[str], list[str]]) -> None:
        """Raise one InventoryError for all problems, if any; `places` returns where a variable is set."""
        if not self.by_text:
            return
        lines, hints = [], []
        for (variable, text, hint), hosts in list(self.by_text.items())[:_MOST_SHOWN]:
            where = [] if variable.startswith("--") else places(variable)
            at = f" ({', '.join(where[:3])})" if where else ""
            lines.append(f"{_hosts(hosts)}: {variable}{at}: {text}")
            hints.append(hint)
        more = len(self.by_text) - len(lines)
        if more:
            lines.append(f"and {more} more")
        text = lines[0] if len(lines) == 1 else "the inventory's settings are wrong:\n  " + "\n  ".join(lines)
        raise InventoryError(text, hint="\n      ".join(dict.fromkeys(hints)))


def settings_of(
    host: str,
    *,
    variables: Mapping[str, Any],
    overrides: Mapping[str, Any],
    base: Path,
    problems: Problems,
    bundled_model: str | None = None,
) -> Settings | None:
    """Return one host's settings; options override variables. Problems are collected, and None is returned then.

    Relative paths of the inventory start at `base`, those of options at the working folder. `bundled_model` is the folder of a
    bundle's model: it replaces one of the same name.
    """
    before = len(problems.by_text)

    def note(name: str, text: str, hint: str | None = None) -> None:
        if name in overrides:
            spelling = _option(name)
            hint = hint and _VALUE.sub(lambda found: typed(*found.groups()), hint)
        else:
            spelling = PREFIX + name
        problems.add(host, spelling, text, hint or f"{spelling}: allowed: {allowed(name)}")

    given = _known(host, variables, overrides, problems)
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        for name in dict.fromkeys(str(problem["loc"][0]) for problem in error.errors()):
            note(name, f"{_shown(name, given[name])} is not allowed")
        return None
    if bundled_model and PurePath(settings.model).name == PurePath(bundled_model).name:
        settings = settings.model_copy(update={"model": bundled_model})
    for conflict in conflicts(settings):
        note(conflict.setting, conflict.text, conflict.hint)
    located: dict[str, Any] = {}
    own = {} if "model" in overrides else {"model": _own_model}
    for name, locate in (_LOCATED | own).items():
        if name in settings.model_fields_set and (value := getattr(settings, name)) is not None:
            try:
                located[name] = locate(value, Path.cwd() if name in overrides else base)
            except ValueError as error:
                note(name, str(error))
    return settings.model_copy(update=located) if len(problems.by_text) == before else None


def _known(host: str, variables: Mapping[str, Any], overrides: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """Values by the names of their settings; those that are none are noted."""
    given: dict[str, Any] = {}
    for variable, value in variables.items():
        if variable.removeprefix(PREFIX) in Settings.model_fields:
            given[variable.removeprefix(PREFIX)] = value
        else:
            problems.add(host, variable, "there is no such setting", _nearest(variable))
    for name, value in overrides.items():
        if name in Settings.model_fields:
            given[name] = value
        else:
            problems.add(host, _option(name), "there is no such setting", _nearest(PREFIX + name, _option))
    return given


def _model(model: str, base: Path) -> str:
    """Return a model that is a folder by its absolute path. Raises ValueError."""
    if model == "builtin":
        return model
    folder = base / expand_user(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"the folder {folder} holds no config.json, so it is no model")
        return str(folder.resolve())
    if model.startswith(_FOLDER):
        raise ValueError(f"there is no folder {folder}")
    if not HUB_ID.fullmatch(model):
        raise ValueError(f"{model!r} is neither a folder below {base} nor a hub id")
    return model


def _own_model(model: str, base: Path) -> str:
    """Return the model of an inventory. A bundle may have its folder where this machine does not: who reads a missing one refuses it."""
    is_elsewhere = model.startswith(_FOLDER) and not (base / expand_user(model)).is_dir()
    return _bundled(model, base) if is_elsewhere else _model(model, base)


def _adapters(sources: Mapping[str, str], base: Path) -> dict[str, str]:
    """Return adapters with the absolute paths of those that are folders. Raises ValueError."""
    located = {}
    for name, source in sources.items():
        folder = base / expand_user(source)
        located[name] = str(folder.resolve()) if folder.is_dir() else source
        if not folder.is_dir() and not HUB_ID.fullmatch(source):
            raise ValueError(f"adapter {name}: {source!r} is neither a folder below {base} nor a hub id")
    return located


def _speculative(given: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Return speculative decoding with the absolute path of a draft model that is a folder. Raises ValueError."""
    return {**given, "model": _model(str(given["model"]), base)} if "model" in given else {**given}


def _bundled(path: str, base: Path) -> str:
    """Return a file by its absolute path, whether it exists or not: with a bundle nothing reads it."""
    return str((base / expand_user(path)).resolve())


def _wheel(vllm: str, base: Path) -> str:
    """Return a wheel that is named by its path, by its absolute path."""
    return _bundled(vllm, base) if vllm.endswith(".whl") and "://" not in vllm else vllm


def _file(path: str, base: Path) -> str:
    file = base / expand_user(path)
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    return str(file.resolve())


_LOCATED: dict[str, Callable[[Any, Path], Any]] = {
    "model": _model,
    "lora": _adapters,
    "speculative": _speculative,
    "vllm": _wheel,
    **dict.fromkeys(("image", "hf_token_file"), _bundled),
    **dict.fromkeys(("chat_template", "driver_key", "gateway_certificate", "alertmanager_config"), _file),
}
"""What finds the files and folders that settings name."""


def _nearest(variable: str, spell: Callable[[str], str] = PREFIX.__add__) -> str:
    if near := difflib.get_close_matches(variable.lower().removeprefix(PREFIX), Settings.model_fields, n=1):
        return f"did you mean {spell(near[0])}?"
    return "docs/reference/inventory.md lists all settings"


def _option(name: str) -> str:
    return OPTIONS.get(name, f"--set {name}")


def _shown(name: str, value: Any) -> str:
    if (
        isinstance(value, Mapping) and name != "source"
    ):  # only names: a value may be a secret, also where no mapping is allowed
        text = f"a mapping of {', '.join(map(str, value)) or 'nothing'}"
    else:
        text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _hosts(hosts: list[str]) -> str:
    if len(hosts) == 1:
        return f"host {hosts[0]}"
    shown = ", ".join(hosts[:3])
    return f"hosts {shown}" + (f" and {len(hosts) - 3} more" if len(hosts) > 3 else "")
