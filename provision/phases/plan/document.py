"""Documents in JSON: the plan as `plan --json` prints it, and recorded facts."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from provision.core.errors import UsageError
from provision.core.json_text import parse
from provision.core.models.facts import HostFacts
from provision.core.models.records import PlannedChange
from provision.core.models.stack import Plan


def to_json(plan: Plan, changes: Mapping[str, Sequence[PlannedChange]]) -> dict[str, Any]:
    """Return the document of a plan: one host's resolution at the top level, several as `classes` with the same keys.

    Args:
        changes: What a run would change, by host.
    """
    found = {name: [one.model_dump(mode="json") for one in these] for name, these in changes.items()}
    answers = [resolution.model_dump(mode="json") for resolution in plan.classes]
    document = {"schema_version": plan.schema_version, "changes": found}
    if sum(len(resolution.hosts) for resolution in plan.classes) == 1:
        return document | answers[0]
    return document | {"classes": answers}


_LIST: TypeAdapter[tuple[HostFacts, ...]] = TypeAdapter(tuple[HostFacts, ...])


def read_facts(text: str, *, where: str) -> tuple[HostFacts, ...]:
    """Return host facts from JSON: one host's, as a run stores them, or a list, as `probe --json` prints them.

    Raises:
        UsageError: The text contains no facts.
    """
    hint = "facts are what `./firstlight probe --json` prints, and what each run keeps under logs/RUN/facts/"
    try:
        document = parse(text)
        found = _LIST.validate_python(document if isinstance(document, list) else [document])
    except ValidationError as error:
        first = error.errors()[0]
        number, *rest = first["loc"]
        place = ".".join(map(str, rest if isinstance(document, dict) else (number, *rest))) or "the whole text"
        raise UsageError(f"{where}: no host facts: {place}: {first['msg']}", hint=hint) from None
    except ValueError as error:
        raise UsageError(f"{where}: no host facts: no JSON: {error}", hint=hint) from None
    if not found:
        raise UsageError(f"{where}: no host facts: the list is empty", hint=hint)
    return found
