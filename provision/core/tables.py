"""The loader of TOML tables: a file as a dictionary, its rows as dataclasses."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from provision.core.errors import FirstlightError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")


class TableError(FirstlightError):
    """A table is malformed."""


def read_table(path: Path, *, hint: str | None = None) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        TableError: The file is absent, no UTF-8, or no TOML. The error carries `hint`.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TableError(f"table `{path}` cannot be read: {error}", hint=hint) from None


own_table = cache(read_table)
"""The same for a table of the product, which does not change while a process runs."""


def rows_of(path: Path, table: str, kind: type[R]) -> tuple[R, ...]:
    """Return the rows of one table of the product.

    Raises:
        TableError: As `read_table` and `build_row`.
    """
    rows = own_table(path)[table]
    return tuple(build_row(kind, row, where=f"{path.name}, {table} {number}") for number, row in enumerate(rows, 1))


def build_row(kind: type[R], values: dict[str, Any], *, where: str, hint: str | None = None) -> R:
    """Return one row from its TOML values.

    Args:
        kind: The row's dataclass.
        where: File, table and number of the row, for messages.
        hint: The hint for a field that is missing or unknown, or a value of the wrong type.

    Raises:
        TableError: A field is missing, unknown or of the wrong type, or the row's `source` is empty.
    """
    known = {field.name for field in fields(kind)}
    unknown = sorted(values.keys() - known)
    if unknown:
        hint = hint or f"the fields are: {', '.join(sorted(known))}"
        raise TableError(f"{where}: unknown field `{unknown[0]}`", hint=hint)
    try:
        row: R = _adapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if name not in values:
            raise TableError(f"{where}: no `{name}`", hint=hint) from None
        raise TableError(f"{where}: `{name}` is {values[name]!r}: {first['msg']}", hint=hint) from None
    if not values.get("source", "unnamed"):
        raise TableError(
            f"{where}: a row without a source", hint="name the artifact or the page that the row is read from"
        )
    return row


@cache
def _adapter(kind: type[R]) -> TypeAdapter[R]:
    return TypeAdapter(kind)
