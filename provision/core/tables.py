"""The loader of TOML tables: a file as a dictionary, its rows as dataclasses."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from provision.core.errors import FirstlightError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import TypeAdapter

    R = TypeVar("R", bound=DataclassInstance)
else:
    R = TypeVar("R")


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


def build_row(kind: type[R], values: dict[str, Any], *, where: str) -> R:
    """Return one row from its TOML values; lists become tuples. Types are not checked: see `type_errors`.

    Args:
        kind: The row's dataclass.
        values: The values by field.
        where: File, table and number of the row, for messages.

    Raises:
        TableError: A field is missing or unknown, or the row's `source` is empty.

    """
    known = {field.name for field in fields(kind)}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise TableError(f"{where}: unknown field `{unknown[0]}`", hint=f"the fields are: {', '.join(sorted(known))}")
    missing = [
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING and field.name not in values
    ]
    if missing:
        raise TableError(f"{where}: no {', '.join(f'`{name}`' for name in missing)}")
    if not values.get("source", "unnamed"):
        raise TableError(
            f"{where}: a row without a source", hint="name the artifact or the page that the row is read from"
        )
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


@cache
def _adapters(kind: type[Any]) -> dict[str, TypeAdapter[Any]]:
    from pydantic import TypeAdapter

    hints = get_type_hints(kind)
    return {field.name: TypeAdapter(hints[field.name]) for field in fields(kind)}


def type_errors(row: DataclassInstance) -> Iterator[str]:
    """Yield a message for each field whose value is of another type than declared."""
    from pydantic import ValidationError

    for field, adapter in _adapters(type(row)).items():
        try:
            adapter.validate_python(getattr(row, field), strict=True)
        except ValidationError as error:
            yield f"`{field}` is {getattr(row, field)!r}: {error.errors()[0]['msg']}"
