"""Facts that were recorded earlier, read back."""

from __future__ import annotations

from pydantic import ValidationError

from provision.errors import UsageError
from provision.models.facts import HostFacts


def read_facts(text: str, *, where: str) -> HostFacts:
    """Host facts from their JSON; `where` names the file in messages. Raises UsageError when it is none."""
    try:
        return HostFacts.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole text"
        hint = "facts files are what `./firstlight probe` writes under logs/RUN/facts/"
        raise UsageError(f"{where}: no host facts: {place}: {first['msg']}", hint=hint) from None
