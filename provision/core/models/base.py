"""Base class of all records."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Immutable record; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
