"""For any files of a run: no line beyond 100 columns, no secret, no terminal command, and JSON that fits its schema."""

import re
import subprocess
import unicodedata
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provision.core.models.records import (
    AttentionProof,
    Change,
    CheckRecord,
    DifferencePart,
    Figure,
    Finding,
    HostDifference,
    HostSummary,
    PhaseResult,
    ServeRecord,
    Summary,
)
from provision.core.redaction import MASK, redact
from provision.report import text, wording
from provision.report.group import group_hosts
from provision.report.layout import COLUMNS, clean, duration, fold_names, table, wrap
from provision.report.next_steps import command_lines, rows
from provision.report.next_steps import words as split
from provision.report.screen import failures, first_screen_of
from tests.report.sample import CPU_STACK, GPU_STACK, REFUSED

pytestmark = pytest.mark.slow

words = st.one_of(st.text(max_size=40), st.text(alphabet="ab -'\"\\\x1b[31m\n一é", max_size=300))
optional = st.one_of(st.none(), words)
seconds = st.floats(min_value=0, max_value=1e6)
figures = st.builds(
    Figure,
    name=words,
    value=st.one_of(st.none(), st.floats()),
    unit=words,
    floor=st.one_of(st.none(), st.floats()),
)
checks = st.builds(
    CheckRecord,
    id=words,
    family=words,
    status=st.sampled_from(["ok", "warn", "fail", "skip", "error"]),
    host=optional,
    device=optional,
    reason=words,
    figures=st.lists(figures, max_size=2).map(tuple),
    remedy=optional,
    seconds=seconds,
)
phases = st.builds(
    PhaseResult,
    host=words,
    phase=st.sampled_from(["probe", "plan", "stage", "install", "verify", "serve"]),
    status=st.sampled_from(["ok", "warn", "failed", "skipped", "unreachable", "interrupted"]),
    seconds=seconds,
    changed=st.booleans(),
    text=optional,
    hint=optional,
    evidence=st.lists(words, max_size=2).map(tuple),
)
proofs = st.builds(
    AttentionProof,
    asked=optional,
    used=optional,
    generation=st.one_of(st.none(), st.integers(2, 4)),
    evidence=st.lists(words, max_size=2).map(tuple),
)
values = st.one_of(st.none(), words, st.integers(), st.floats(), st.booleans(), st.lists(words, max_size=9))
differences = st.builds(
    HostDifference,
    host=words,
    before=words,
    after=words,
    changes=st.lists(
        st.builds(
            Change,
            part=st.sampled_from(get_args(DifferencePart)),
            name=words,
            before=values,
            after=values,
            unit=optional,
            text=optional,
        ),
        max_size=10,
    ).map(tuple),
    unknown=st.lists(words, max_size=2).map(tuple),
)
hosts = st.builds(
    HostSummary,
    name=words,
    state=st.sampled_from(sorted(wording.STATE_WORDS)),
    changed=st.booleans(),
    phases=st.lists(phases, max_size=3).map(lambda results: {result.phase: result for result in results}),
    stack=st.sampled_from([None, CPU_STACK, GPU_STACK]),
    reasons=st.lists(st.builds(lambda line: REFUSED.model_copy(update={"text": line}), words), max_size=2).map(tuple),
    devices=st.lists(words, max_size=2).map(tuple),
    checks=st.lists(checks, max_size=3).map(tuple),
    checks_at=optional,
    prefix=optional,
    endpoint=optional,
    key_file=optional,
    call=st.lists(words, max_size=2).map(tuple),
    attention=proofs,
    serve=st.one_of(st.none(), st.builds(ServeRecord, text=optional, attention=proofs)),
    findings=st.lists(
        st.builds(Finding, cause=words, confidence=st.floats(0, 1), fix=st.lists(words, max_size=2).map(tuple)),
        max_size=2,
    ).map(tuple),
    deviations=st.lists(words, max_size=2).map(tuple),
    warnings=st.lists(words, max_size=2).map(tuple),
    notes=st.lists(words, max_size=2).map(tuple),
    since_green=st.one_of(st.none(), differences),
)
summaries = st.builds(
    Summary,
    run=words,
    command=words,
    started_at=words,
    verdict=st.sampled_from(["red", "amber", "green"]),
    changed=st.integers(0, 5),
    seconds=seconds,
    hosts=st.lists(hosts, max_size=3).map(tuple),
    phase_seconds=st.dictionaries(words, seconds, max_size=2),
    interrupted=st.booleans(),
    next_commands=st.just(("./firstlight verify -i 'inventory/my site'",)),
)


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line)


def is_one_word(line: str) -> bool:
    """Return whether a line is one word of a command, which is never cut, or an option with its value."""
    return len(split(re.sub(r"^([A-Z][a-z]+ {3,})? *(-\w )?", "", line).removesuffix(" \\"))) == 1


@given(summaries)
@settings(max_examples=50, deadline=None)
def test_text_keeps_to_its_columns(summary: Summary) -> None:
    for line in text.render(summary).rstrip("\n").split("\n"):
        assert columns(line) <= COLUMNS or is_one_word(line), line
        assert all(unicodedata.category(char)[0] != "C" for char in line), repr(line)


@st.composite
def fleets(draw: st.DrawFn) -> Summary:
    """Draw up to three hundred hosts of a few kinds, which fail, warn and differ in as many ways."""
    kinds = draw(st.lists(hosts, min_size=1, max_size=20))
    name = draw(st.sampled_from(["gpu-", "rack1.example.net-", "x" * 120, "一" * 60]))
    number = draw(st.integers(1, 300))
    many = (kinds[place % len(kinds)].model_copy(update={"name": f"{name}{place * 3}"}) for place in range(number))
    limit = draw(st.integers(0, 90))
    command = f"./firstlight provision --limit {','.join(f'{name}{place}' for place in range(limit))}"
    host_comparison = tuple(draw(st.lists(checks, max_size=4)))
    return draw(summaries).model_copy(
        update={
            "hosts": tuple(many),
            "host_comparison": host_comparison,
            "next_commands": (command, "./firstlight status"),
        }
    )


@given(fleets())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_the_first_screen_has_25_lines_whatever_the_run(summary: Summary) -> None:
    shown = first_screen_of(text.render(summary)).rstrip("\n").split("\n")
    assert len(shown) <= 25
    assert rows(shown) <= 25
    assert all(columns(line) <= COLUMNS or is_one_word(line) for line in shown)
    assert shown[0].startswith(summary.verdict.upper())
    assert shown[-1].split() == ["Details", "./firstlight", "logs", "show", "--full"]


@given(fleets())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_no_cause_is_lost_without_being_counted(summary: Summary) -> None:
    """Every cause is on the first screen, or the count of the remaining failures names the command that shows them."""
    whole = text.render(summary)
    failures_shown = " ".join(first_screen_of(whole).partition("What failed\n")[2].split())
    for failure in failures(summary, group_hosts(summary.hosts)):
        cause = failure.finding and " ".join(clean(failure.finding.cause).split())
        if cause and cause[:20] not in failures_shown:
            assert re.search(r"and \d+ more: ./firstlight logs show --full", failures_shown)
            assert f"cause: {cause}"[:60] in " ".join(whole.split())


@given(summaries)
@settings(max_examples=50, deadline=None)
def test_json_can_be_read_again(summary: Summary) -> None:
    assert len(Summary.model_validate_json(summary.model_dump_json()).hosts) == len(summary.hosts)


@pytest.mark.parametrize("quote", ["'", '"'])
@pytest.mark.parametrize("columns", range(20, 60))
def test_a_command_in_a_sentence_is_not_broken_inside_a_quoted_path(quote: str, columns: int) -> None:
    path = f"{quote}/my site/hosts.yml{quote}"
    lines = wrap(f"the hosts' list: ./firstlight plan -i {path}, it's there (see {path})", columns=columns)
    assert "\n".join(lines).count(path) == 2


@given(words.map(clean))
@settings(deadline=None)
def test_wrapping_loses_no_text(sentence: str) -> None:
    assert "".join("".join(wrap(sentence, first="  ", columns=20)).split()) == "".join(sentence.split())


@given(st.text(max_size=30), st.text(max_size=30))
def test_tables_align(one: str, two: str) -> None:
    first, second = table([((one, "x"), "end"), ((two, "y"), "end")])
    assert columns(first.removesuffix("end")) == columns(second.removesuffix("end"))


@pytest.mark.parametrize("columns_wide", [30, 60, 100])
@given(data=st.lists(st.text(alphabet="ab '\"$`!*", min_size=1, max_size=120), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_a_wrapped_command_has_the_same_words(columns_wide: int, data: list[str]) -> None:
    """A real shell reads the wrapped command as it reads the whole one."""
    import shlex

    given_words = [" ".join(word.split()) for word in data]
    whole = shlex.join(["printf", "%s\\n", *given_words])
    broken = command_lines(whole, columns=columns_wide)
    assert all(columns(line) <= columns_wide or is_one_word(line) for line in broken)
    script = "\n".join(broken)
    output = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert output == "".join(f"{word}\n" for word in given_words)


def test_command_substitution_inside_double_quotes_survives() -> None:
    whole = "printf %s\\\\n \"key: $(printf %s one two 'three  four' five six)\" seven"
    script = "\n".join(command_lines(clean(whole), columns=34))
    expected = subprocess.run(["sh", "-c", clean(whole)], capture_output=True, text=True, check=True).stdout
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == expected
    assert len(script.splitlines()) > 1


def test_every_state_has_words() -> None:
    assert set(get_args(HostSummary.model_fields["state"].annotation)) == set(wording.STATE_WORDS)


SECRET = "Zq7Rk2Lw9Xv4Bn6T"


@pytest.mark.parametrize(
    "line",
    [
        f"VLLM_API_KEY={SECRET}",
        f'{{"api_key": "{SECRET}"}}',
        f"Authorization: Bearer {SECRET}",
        f"could not open https://user:{SECRET}@mirror.example.net/simple",
        f"HF_TOKEN={SECRET}",
        f"used hf_{SECRET} to fetch",
        f"password: {SECRET}",
        f"token: {SECRET}",
        f"token: {SECRET.lower()}",
        "token=abcdefgh",
        '{"token": "abcdefgh"}',
        f"become_password = '{SECRET}'",
        f"vllm serve --api-key {SECRET} --port 8000",
        f"git clone https://{SECRET}{SECRET}@code.example.net/x",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}",
    ],
)
def test_text_that_looks_like_a_secret_is_masked(line: str) -> None:
    assert not any(secret in redact(line) for secret in (SECRET, SECRET.lower(), "abcdefgh"))
    assert MASK in redact(line)


@pytest.mark.parametrize(
    "line", ["a.", "-", "token ", "--token-", "://", "hf_", "-----BEGIN ", "password:\t", "key" + " " * 50], ids=repr
)
def test_a_hostile_line_is_read_in_linear_time(line: str) -> None:
    """With 300,000 characters a pattern that starts again at every position would run for most of an hour."""
    text = line * (300_000 // len(line))
    assert len(redact(text)) <= len(text)


@pytest.mark.parametrize(
    ("names", "grouped"),
    [
        (["a"], "a"),
        (["gpu-1", "gpu-2"], "gpu-1, gpu-2"),
        (["gpu-1", "gpu-2", "gpu-3", "login"], "gpu-[1:3], login"),
        (["n08", "n09", "n10", "n11"], "n[08:11]"),
        (["a9", "a10", "a11", "a12"], "a[9:12]"),
        (["r1-n1", "r1-n2", "r2-n1"], "r1-n1, r1-n2, r2-n1"),
        (["n1.x", "n2.x", "n3.x"], "n[1:3].x"),
        ([], ""),
    ],
)
def test_names_are_folded(names: list[str], grouped: str) -> None:
    assert fold_names(names) == grouped


@pytest.mark.parametrize(
    ("value", "words_of_it"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (94.2, "94 s"), (600, "10 min"), (10800, "3 h"), (1e6, "12 days")],
)
def test_durations_are_shown_in_words(value: float, words_of_it: str) -> None:
    assert duration(value) == words_of_it
