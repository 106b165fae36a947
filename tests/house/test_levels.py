"""Which tests a run has: quick without arguments, all with `--all`, and each long test within as many days as there are parts."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.levels import PARTS, arguments_of, leave_out, share_of, turn_of

DAY = datetime(2026, 11, 26, tzinfo=UTC)
TESTS = """
import pytest

{file_mark}

@pytest.mark.parametrize("number", range(4))
{mark}
def test_it(number):
    pass
"""

pytest_plugins = ["pytester"]


@pytest.mark.parametrize(
    ("words", "arguments", "packages"),
    [
        ([], ["-m", "not slow"], False),
        (["-x"], ["-m", "not slow", "-x"], False),
        (["--all"], [], True),
        (["--all", "-x"], ["-x"], True),
        (["tests/plan", "-k", "sample"], ["tests/plan", "-k", "sample"], True),
        (["-m", "fleet"], ["-m", "fleet"], True),
        (["-k", "sample"], ["-k", "sample"], True),
    ],
)
def test_a_run_is_quick_unless_it_names_what_it_wants(words: list[str], arguments: list[str], packages: bool) -> None:
    assert arguments_of(words) == (arguments, packages)


def test_each_day_has_a_share_and_as_many_days_as_parts_have_all() -> None:
    assert {share_of("today", DAY + timedelta(days=number)) for number in range(PARTS)} == set(range(PARTS))
    assert (share_of("all", DAY), share_of("1", DAY)) == (None, 1)
    for text in (str(PARTS), "-1", "tomorrow"):
        with pytest.raises(ValueError, match=r"part of|invalid literal"):
            share_of(text, DAY)


def test_long_tests_have_their_turn_one_by_one_and_long_files_whole(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = long")
    pytester.makepyfile(
        test_short=TESTS.format(file_mark="", mark=""),
        test_single=TESTS.format(file_mark="", mark="@pytest.mark.long"),
        **{f"test_file_{name}": TESTS.format(file_mark="pytestmark = pytest.mark.long", mark="") for name in "ab"},
    )
    pytester.makepyfile(test_named=TESTS.format(file_mark="", mark='@pytest.mark.long("a name")'))
    items, _ = pytester.inline_genitems()
    names = [turn_of(item) for item in items]
    assert names.count(None) == 4
    assert len({name for name in names if name}) == 4 + 2 + 1
    left = [leave_out(items, share) for share in range(PARTS)]
    for item in items:
        turns = sum(item not in out for out in left)
        assert turns == (PARTS if turn_of(item) is None else 1)
    for name in {name for name in names if name}:
        assert len({tuple(item in out for out in left) for item in items if turn_of(item) == name}) == 1


def test_shares_take_about_as_long_as_one_another(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = long")
    lengths = (600, 50, 300, 200, 400, 250, 360, 240, 350, 250, 350, 250)
    marks = [f"@pytest.mark.long({f'turn {number}'!r}, seconds={seconds})" for number, seconds in enumerate(lengths)]
    pytester.makepyfile("import pytest\n" + "".join(f"{mark}\ndef test_{n}(): pass\n" for n, mark in enumerate(marks)))
    items, _ = pytester.inline_genitems()
    turns = {item: turn for item in items if (turn := turn_of(item))}
    left = [leave_out(items, share) for share in range(PARTS)]
    assert [sum(turn.seconds for item, turn in turns.items() if item not in out) for out in left] == [600] * PARTS


def test_tests_that_wait_for_one_another_are_in_different_shares(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = long")
    folder = pytester.mkdir("tests") / "fleet"
    folder.mkdir()
    for name, seconds in {
        "cards": 400,
        "containers": 100,
        "services": 200,
        "provision": 300,
        "watchdog": 350,
        "span": 300,
        "user": 250,
        "faults": 100,
    }.items():
        mark = f"@pytest.mark.long({name!r}, seconds={seconds})"
        (folder / f"test_{name}.py").write_text(f"import pytest\n{mark}\ndef test_one(): pass\n", encoding="utf-8")
    items, _ = pytester.inline_genitems()
    turns = {item: turn for item in items if (turn := turn_of(item))}
    left = [leave_out(items, share) for share in range(PARTS)]
    shares = {frozenset(turn.name for item, turn in turns.items() if item not in out) for out in left}
    assert shares == {
        frozenset({"cards"}),
        frozenset({"provision"}),
        frozenset({"services", "faults"}),
        frozenset({"containers", "user"}),
        frozenset({"watchdog"}),
        frozenset({"span"}),
    }
