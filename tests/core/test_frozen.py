"""Frozen classes behave as frozen dataclasses do, though they share their methods."""

from __future__ import annotations

from copy import copy
from dataclasses import FrozenInstanceError, asdict, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.core.frozen import frozen, frozen_by_identity, table_row

ROOT = Path(__file__).resolve().parents[2]
FROZEN = str(ROOT / "provision/core/frozen.py")
"""Its description names what it replaces."""
T = TypeVar("T")


@frozen
class Card:
    name: str
    memory: int = 80
    tags: list[str] = field(default_factory=list)
    secret: str = field(default="", repr=False)
    seen: float = field(default=0.0, compare=False)


Expected: Any = make_dataclass("Card", [(one.name, one.type, copy(one)) for one in fields(Card)], frozen=True)
"""What the standard library makes of the same fields."""


@frozen
class Pair(Generic[T]):
    one: T
    other: T | None = None


@frozen
class Longer(Card):
    slot: int = 3


ARGUMENTS = st.fixed_dictionaries(
    {"name": st.sampled_from("ab")},
    optional={
        "memory": st.integers(0, 1),
        "tags": st.just([]),
        "secret": st.sampled_from("xy"),
        "seen": st.floats(0, 1),
    },
)


@given(ARGUMENTS, ARGUMENTS)
def test_it_compares_shows_and_converts_as_a_dataclass(one: dict[str, Any], other: dict[str, Any]) -> None:
    ours, theirs = (Card(**one), Card(**other)), (Expected(**one), Expected(**other))
    assert (ours[0] == ours[1]) == (theirs[0] == theirs[1])
    for mine, reference in zip(ours, theirs, strict=True):
        assert repr(mine) == repr(reference)
        assert asdict(mine) == asdict(reference)
        assert asdict(replace(mine, memory=7)) == asdict(replace(reference, memory=7))


def test_arguments_go_by_position_by_name_or_take_their_defaults() -> None:
    assert Card("a", 40) == Card(memory=40, name="a")
    assert Card("a").tags is not Card("a").tags
    assert asdict(Longer("a", slot=1)) == {**asdict(Card("a")), "slot": 1}
    assert Pair[int](1).other is None


@pytest.mark.parametrize(
    ("given", "named"),
    [((), {}), (("a",), {"colour": "red"}), (("a",), {"name": "b"}), (("a", 1, [], "", 0.0, 6), {})],
    ids=["missing", "unknown", "twice", "too many"],
)
def test_wrong_arguments_are_refused(given: tuple[Any, ...], named: dict[str, Any]) -> None:
    for kind in (Card, Expected):
        with pytest.raises(TypeError):
            kind(*given, **named)


def test_nothing_can_be_changed() -> None:
    card = Card("a")
    with pytest.raises(FrozenInstanceError, match=r"Card\.name cannot change"):
        card.name = "b"  # type: ignore[misc]  # the error is what is tested
    with pytest.raises(FrozenInstanceError):
        del card.memory
    assert [one.name for one in fields(card)] == ["name", "memory", "tags", "secret", "seen"]


def test_equal_instances_are_one_key_unless_compared_by_identity() -> None:
    @frozen
    class Key:
        name: str

    @frozen_by_identity
    class Item:
        name: str

    @table_row
    class Row:
        name: str

    assert len({Key("a"), Key("a")}) == 1
    assert len({Item("a"), Item("a")}) == 2
    assert Row(name="a") != Row(name="a")
    with pytest.raises(TypeError, match="0 arguments without a name"):
        Row("a")  # type: ignore[call-arg]  # the error is what is tested


def test_what_is_derived_after_all_fields_are_set() -> None:
    @frozen
    class Checked:
        count: int

        def __post_init__(self) -> None:
            if self.count < 0:
                raise ValueError(self.count)

    assert Checked(1).count == 1
    with pytest.raises(ValueError, match="-1"):
        Checked(-1)


def test_a_field_that_is_no_argument_is_refused() -> None:
    class Late:
        made: int = field(default=0, init=False)

    with pytest.raises(TypeError, match="Late: a field with init=False"):
        frozen(Late)


def test_classes_of_the_controller_share_their_methods() -> None:
    own = [path for path in (ROOT / "provision").rglob("*.py") if not {"onhost", "onbuilder"} & {*path.parts}]
    assert own
    assert [str(path) for path in own if "@dataclass(frozen=True" in path.read_text(encoding="utf-8")] == [FROZEN]


def test_no_signature_is_parsed_for_a_class_without_a_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inspect.signature", None)

    @table_row
    class Row:
        name: str

    assert (Row.__doc__, Row(name="a").name) == ("Row", "a")
