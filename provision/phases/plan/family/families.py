"""Families and classes of models, vLLM's parsers by release, and quantisations: the tables, and the family of a model."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from packaging.version import Version

from provision.catalog.rows import Row
from provision.catalog.versions import numbers
from provision.core.errors import ModelError
from provision.core.json_text import parse_object
from provision.core.models.records import Task
from provision.core.models.settings import model_name, value_of
from provision.core.tables import build_row, own_table, rows_of

HERE = Path(__file__).parent

Kind = Literal["tool", "reasoning"]


class Family(Row):
    """Models that are served alike; families.toml explains the values."""

    name: str
    architectures: tuple[str, ...]
    config: dict[str, str] | None = None
    named: str | None = None
    derived: bool = False
    """Whether the models are made by tuning those of other families, so that only the name shows them."""
    tools: str | None = None
    reasoning: str | None = None
    arguments: tuple[dict[str, Any], ...] = ()
    template: str | None = None
    code: str | None = None


@dataclass(frozen=True)
class Releases:
    """The releases of vLLM that have a name: from `since` on, up to `until` without it."""

    since: str
    until: str | None = None

    def __contains__(self, version: str) -> bool:
        found = Version(version)
        return Version(self.since) <= found and (self.until is None or found < Version(self.until))

    def __str__(self) -> str:
        return f"from vLLM {self.since} on" + (f", before {self.until}" if self.until else "")


class QuantizationScheme(Row):
    """What one kind of quantised layers needs; quantization.toml explains the values."""

    name: str
    since: str = "0"
    until: str | None = None
    capability: str | None = None
    exact: bool = False

    @property
    def releases(self) -> Releases:
        return Releases(self.since, self.until)

    def refuses(self, version: str, capabilities: Iterable[str]) -> str | None:
        """Return why a release of vLLM or one of these NVIDIA cards does not compute such layers; None if both do."""
        if version not in self.releases:
            return f"which exists {self.releases}; this is {version}"
        needed = self.capability
        wrong = [each for each in capabilities if needed and numbers(each) < numbers(needed)]
        if self.exact:
            wrong = [each for each in capabilities if each != needed]
        only = "exactly " if self.exact else ""
        return f"which needs compute capability {only}{needed}; the GPUs have {wrong[0]}" if wrong else None


class Quantization(QuantizationScheme):
    """A quantisation that config.json names, and what it needs of all layers."""

    scheme: tuple[QuantizationScheme, ...] = ()


class OnProcessors(Row):
    """The levels of processors on which vLLM has kernels for a format of weights; quantization.toml explains the values."""

    names: tuple[str, ...]
    levels: tuple[str, ...]
    experts: bool = False


class Int8OnX86(Row):
    """What an x86 processor needs for products of 8-bit weights and activations."""

    flags: tuple[str, ...]


@cache
def families() -> dict[str, Family]:
    """Return the families by name, in the order in which they are tried."""
    return {row.name: row for row in rows_of(HERE / "families.toml", "family", Family)}


@cache
def parsers(kind: Kind) -> dict[str, Releases]:
    """Return the releases of each parser of a kind."""
    return {name: Releases(**row) for name, row in own_table(HERE / "parsers.toml")[kind].items()}


@cache
def class_since() -> dict[str, str]:
    """Return the first release that knows a class of models, for those that came after 0.6.3."""
    table = own_table(HERE / "model_classes.toml")["since"]
    return {name: version for version, names in table.items() for name in names}


def option_since(kind: Kind) -> str:
    """Return the first release whose option for a kind of parser works alone."""
    return str(own_table(HERE / "parsers.toml")["option"][kind])


@cache
def quantizations() -> dict[str, Quantization]:
    return {row.name: row for row in rows_of(HERE / "quantization.toml", "method", Quantization)}


def on_processors(formats: Collection[str], *, has_experts: bool) -> OnProcessors | None:
    """Return the first row for a model with weights in these formats; None if levels of processors do not matter."""
    rows = rows_of(HERE / "quantization.toml", "on_processors", OnProcessors)
    return next((row for row in rows if {*row.names} & {*formats} and (has_experts or not row.experts)), None)


@cache
def int8_on_x86() -> Int8OnX86:
    path, name = HERE / "quantization.toml", "int8_on_x86"
    return build_row(Int8OnX86, own_table(path)[name], where=f"{path.name}, {name}")


@cache
def config_types() -> frozenset[str]:
    """Return the values of `model_type` that vLLM reads without code of the model's repository."""
    return frozenset(own_table(HERE / "config_types.toml")["names"])


@dataclass(frozen=True)
class Match:
    """The family of a model; without one, the families that config.json allows and the name does not say."""

    family: str | None = None
    possible: tuple[str, ...] = ()
    code: str | None = None
    """Why vLLM needs Python code of the model's repository; None if it does not."""
    elsewhere: str | None = None
    """The other repository that has this code, which an offline host cannot read."""


UNKNOWN = Match()


def match(config: Mapping[str, Any], model: str) -> Match:
    """Return the family of a model: by config.json, and by the model's name where config.json cannot tell.

    Args:
        model: The setting `model`: a folder or a hub id.
    """
    name = model_name(model)
    fitting = [row for row in families().values() if _fits(row, config)]
    family = next((row for row in fitting if row.named is None or re.search(row.named, name)), None)
    of_config, elsewhere = _code_of_config(config)
    code = (family.code if family else None) or of_config
    if family:
        return Match(family.name, code=code, elsewhere=elsewhere)
    return Match(possible=tuple(row.name for row in fitting if not row.derived), code=code, elsewhere=elsewhere)


def _fits(row: Family, config: Mapping[str, Any]) -> bool:
    def at(path: str) -> Any:
        found: Any = config
        for step in path.split("."):
            found = found.get(step) if isinstance(found, Mapping) else None
        return found

    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else None
    return architecture in row.architectures and all(
        any(at(path) == value for path in paths.split("|")) for paths, value in (row.config or {}).items()
    )


def _code_of_config(config: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return why the configuration itself is code: vLLM does not know its type, and config.json names a class of the repository, or of another one."""
    kind, classes = config.get("model_type"), config.get("auto_map")
    if (
        not isinstance(classes, Mapping)
        or "AutoConfig" not in classes
        or (isinstance(kind, str) and kind in config_types())
    ):
        return None, None
    repository, is_other, _ = str(classes["AutoConfig"]).partition("--")
    return f"its configuration of type `{kind}` is Python code of the repository", repository if is_other else None


def task_of(config: Mapping[str, Any], files: Collection[str], arguments: Sequence[str]) -> Task:
    """Return what a model makes.

    Args:
        config: Its config.json.
        files: The names of its files.
        arguments: The setting `vllm_args`.

    Raises:
        ModelError: It names classes instead.
    """
    table = own_table(Path(__file__).with_name("tasks.toml"))
    with suppress(ValueError):  # the server says what is wrong with other text
        config = {**config, **parse_object((value_of(arguments, "--hf-overrides") or "{}").encode())}
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    ends = table["classes"].items()
    task: Task = next((kind for kind, names in ends if architecture.endswith(tuple(names))), "generate")
    is_pooling = table["modules"]["file"] in files or value_of(arguments, "--runner") == "pooling"
    task = "embed" if is_pooling and task == "generate" else task
    for option, kinds in table["arguments"].items():
        task = kinds.get(value_of(arguments, option), task)
    names = config.get("id2label")  # counted as transformers does
    labels = len(names) if isinstance(names, dict) else int(config.get("num_labels") or 2)
    # The weights of two words' difference are one label: as_seq_cls_model of vllm/model_executor/models/adapters.py, 0.32.0.
    if task == "score" and labels != 1 and not config.get("classifier_from_token"):
        raise ModelError(
            f"config.json of a {architecture} model has {labels} labels: it names classes, and only scores, which have one label, can be checked",
            hint="give a model that makes text, embeddings or scores (docs/guides/serve-your-model.md)",
        )
    return task
