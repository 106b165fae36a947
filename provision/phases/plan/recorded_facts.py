"""Recorded facts, read from JSON."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from provision.core.errors import UsageError
from provision.core.json_text import parse
from provision.core.models.facts import HostFacts

_LIST: TypeAdapter[tuple[HostFacts, ...]] = TypeAdapter(tuple[HostFacts, ...])


def read_facts(text: str, *, where: str) -> tuple[HostFacts, ...]:
    """Return host facts from JSON: one host's, as a run stores them, or a list, as `probe --json` prints them.

    Args:
        text: The JSON text.
        where: The name of the file, for messages.

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
