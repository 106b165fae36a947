"""What a model makes: text, embeddings or scores, decided as vLLM decides it."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from provision.core.errors import ModelError
from provision.core.models.records import Task
from provision.core.models.settings import value_of
from provision.core.tables import own_table


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
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    ends = table["classes"].items()
    task: Task = next((kind for kind, names in ends if architecture.endswith(tuple(names))), "generate")
    is_pooling = table["modules"]["file"] in files or value_of(arguments, "--runner") == "pooling"
    task = "embed" if is_pooling and task == "generate" else task
    for option, kinds in table["arguments"].items():
        task = kinds.get(value_of(arguments, option), task)
    if task == "score" and (labels := _labels(config)) != 1:
        raise ModelError(
            f"config.json of a {architecture} model has {labels} labels: it names classes, and only scores, which have one label, can be checked",
            hint="give a model that makes text, embeddings or scores (docs/guides/serve-your-model.md)",
        )
    return task


def _labels(config: Mapping[str, Any]) -> int:
    """Return the number of labels of a classifier, as transformers counts them."""
    names = config.get("id2label")
    return len(names) if isinstance(names, dict) else int(config.get("num_labels") or 2)
