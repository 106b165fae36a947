"""The rows of the tables, one dataclass a table. A field without a default must be in the TOML.

GPU code: "80" is native code for compute capability 8.0; "p80" is PTX, which a driver compiles for 8.0 and newer cards.
"""

from __future__ import annotations

from dataclasses import MISSING, FrozenInstanceError, dataclass, fields
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, eq_default=False)
def table_row(kind: type[T]) -> type[T]:
    """Make a class a frozen row. Rows are compared by identity, which keeps them cheap to create and to look up.

    All classes have the same methods: writing and compiling them for each of the 60 classes would take 0.2 ms a class.
    """
    made: Any = dataclass(kw_only=True, init=False, eq=False, repr=False)(kind)
    made.__init__, made.__setattr__, made.__delattr__ = _init, _refuse, _refuse
    return kind


def _init(row: Any, **values: Any) -> None:
    own = fields(row)
    for field in own:
        if field.name not in values and field.default_factory is not MISSING:
            values[field.name] = field.default_factory()
        elif field.name not in values and field.default is not MISSING:
            values[field.name] = field.default
    if values.keys() != {field.name for field in own}:
        wrong = sorted(values.keys() ^ {field.name for field in own})
        raise TypeError(f"{type(row).__name__}: missing or unknown: {', '.join(wrong)}")
    vars(row).update(values)


def _refuse(row: Any, name: str, *_: Any) -> None:
    raise FrozenInstanceError(f"{type(row).__name__}.{name} cannot change")


@table_row
class Row:
    source: str
    """The artifact or the page that the row was read from."""
    inferred: bool = False
    """Whether a value of the row was inferred, not read from the artifact."""
