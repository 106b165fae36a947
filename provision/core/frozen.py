"""Frozen dataclasses that are cheap to make.

`@dataclass(frozen=True)` writes and compiles five methods for each class, which takes 0.3 ms. A command imports 150 of such classes and lives
for half a second. The classes of this module share their methods instead. All else is a dataclass: `fields`, `replace` and `asdict` work.
What is compared, hashed and shown follows the options `compare` and `repr` of `field`. Code that runs on hosts has the standard library alone, and uses `dataclass`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from reprlib import recursive_repr
from typing import Any, NamedTuple, TypeVar, dataclass_transform

T = TypeVar("T")


class _Shape(NamedTuple):
    """What the shared methods need to know of a class."""

    names: tuple[str, ...]
    defaults: dict[str, Any]
    factories: tuple[tuple[str, Callable[[], Any]], ...]
    compared: tuple[str, ...]
    shown: tuple[str, ...]
    kw_only: bool
    has_post_init: bool


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(kind: type[T]) -> type[T]:
    """Make a class a frozen dataclass; instances with equal fields are equal."""
    return _make(kind)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
def frozen_by_identity(kind: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose instances are compared by identity, which keeps them cheap to look up."""
    return _make(kind, eq=False)


@dataclass_transform(frozen_default=True, kw_only_default=True, eq_default=False, field_specifiers=(field,))
def table_row(kind: type[T]) -> type[T]:
    """Make a class a frozen row of a table: made by keywords, compared by identity."""
    return _make(kind, eq=False, kw_only=True)


def _make(kind: type[T], *, eq: bool = True, kw_only: bool = False) -> type[T]:
    # Without a description `dataclass` writes one: it has the signature of each class parsed, which takes twice the time of all else.
    kind.__doc__ = kind.__doc__ or kind.__name__
    made: Any = dataclass(init=False, eq=False, repr=False, kw_only=kw_only)(kind)
    own = fields(made)
    if not all(one.init for one in own):
        raise TypeError(f"{kind.__name__}: a field with init=False is not supported")
    made.frozen_shape = _Shape(
        names=tuple(one.name for one in own),
        defaults={one.name: one.default for one in own if one.default is not MISSING},
        factories=tuple((one.name, one.default_factory) for one in own if one.default_factory is not MISSING),
        compared=tuple(one.name for one in own if one.compare),
        shown=tuple(one.name for one in own if one.repr),
        kw_only=kw_only,
        has_post_init=hasattr(kind, "__post_init__"),
    )
    made.__init__, made.__setattr__, made.__delattr__ = _init, _refuse, _refuse
    if "__repr__" not in vars(kind):
        made.__repr__ = _repr
    if eq:
        made.__eq__, made.__hash__ = _eq, _hash
    return kind


def _init(self: Any, /, *args: Any, **values: Any) -> None:
    shape: _Shape = self.frozen_shape
    if args:
        if shape.kw_only or len(args) > len(shape.names):
            most = 0 if shape.kw_only else len(shape.names)
            raise TypeError(f"{type(self).__name__} takes {most} arguments without a name, {len(args)} were given")
        for name, value in zip(shape.names, args, strict=False):
            if name in values:
                raise TypeError(f"{type(self).__name__}: `{name}` was given twice")
            values[name] = value
    if len(values) < len(shape.names):
        values = {**shape.defaults, **values}
        for name, factory in shape.factories:
            if name not in values:
                values[name] = factory()
    if len(values) != len(shape.names) or not all(name in values for name in shape.names):
        wrong = ", ".join(sorted(values.keys() ^ {*shape.names}))
        raise TypeError(f"{type(self).__name__}: missing or unknown: {wrong}")
    self.__dict__.update(values)
    if shape.has_post_init:
        self.__post_init__()


def _refuse(self: Any, name: str, *_: Any) -> None:
    raise FrozenInstanceError(f"{type(self).__name__}.{name} cannot change")


@recursive_repr()
def _repr(self: Any) -> str:
    return (
        f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.frozen_shape.shown)})"
    )


def _compared(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, name) for name in self.frozen_shape.compared])


def _eq(self: Any, other: object) -> Any:
    return _compared(self) == _compared(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_compared(self))
