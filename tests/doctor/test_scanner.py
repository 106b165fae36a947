"""The scanner finds the same lines as a match of each line, in any form of text."""

import io
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.doctor.patterns import PatternIndex, SearchPattern, depends_on_digits, line_kind, required_literals
from verify.doctor.scanner import Hit, ScanResult, scan
from verify.doctor.text_decoding import LINE_BYTES

PATTERNS = (
    SearchPattern(r"(?i)no kernel image"),
    SearchPattern(r"Error 80[23]\b"),
    SearchPattern(r"undefined symbol: \S{0,40}(?:c10|nccl)"),
    SearchPattern(r"^lib\w{1,40}\.so\.\d{1,20}: cannot open"),
    SearchPattern(r"(?i)\bkilled\b", near=r"oom|memory"),
    SearchPattern(r"select device driver \"\" with"),
)
INDEX = PatternIndex(PATTERNS)
LINES = (
    "RuntimeError: CUDA error: no kernel image is available",
    "Error 802: system not yet initialized",
    "Error 803: system has unsupported display driver",
    "ImportError: x.so: undefined symbol: _ZN3c104cuda",
    "libcudart.so.13: cannot open shared object file",
    "Killed",
    "kernel: Out of memory: oom-kill",
    'docker: could not select device driver "" with capabilities: [[gpu]]',
    "INFO 11-20 08:01:40 [loader.py:12] all is well",
    "",
)


def scan_text(text: str, index: PatternIndex, *, name: str) -> ScanResult:
    return scan(io.BytesIO(text.encode("utf-8", "replace")), index, name=name)


def places(hits: list[list[Hit]]) -> list[list[int]]:
    return [[hit.line for hit in same] for same in hits]


def by_hand(lines: list[str]) -> list[list[int]]:
    """Match line by line, which is slow; patterns that need no more see the first line of each kind."""
    found: list[list[int]] = []
    for pattern in PATTERNS:
        numbers, kinds = [], set[str]()
        for number, line in enumerate(lines, 1):
            around = lines[max(0, number - 21) : number + 20]
            if not re.search(pattern.pattern, line) or (
                pattern.near and not any(re.search(pattern.near, n) for n in around)
            ):
                continue
            kind = re.sub(r"\d[0-9a-f]*", "0", line.lower())
            if kind not in kinds or depends_on_digits(pattern.pattern):
                numbers.append(number)
            kinds.add(kind)
        found.append(numbers[: pattern.limit])
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([line for line in LINES if line != "Killed"]), max_size=60))
def test_it_finds_the_same_as_a_match_of_each_line(lines: list[str]) -> None:
    assert places(scan_text("\n".join(lines), INDEX, name="log").hits) == by_hand(lines)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=4000))
def test_any_bytes_are_accepted(content: bytes) -> None:
    scan(io.BytesIO(content), INDEX, name="noise")
    scan(io.BytesIO(content + b"\nno kernel image\n" + content), INDEX, name="noise")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace("\n", "\r\n").encode(), id="windows line ends"),
        pytest.param(lambda text: re.sub(r"(?m)^(\w)", "\x1b[1;31m\\1\x1b[0m", text).encode(), id="colours"),
        pytest.param(lambda text: text.encode("utf-16"), id="utf-16 with mark"),
        pytest.param(lambda text: text.encode("utf-16-le"), id="utf-16 without mark"),
        pytest.param(lambda text: text.replace("well", "w\xe9ll").encode("latin-1"), id="not utf-8"),
        pytest.param(lambda text: text.upper().replace("NO KERNEL", "\0NO KERNEL").encode(), id="nul"),
    ],
)
def test_the_form_of_the_text_does_not_matter(change: object) -> None:
    lines = [LINES[8]] * 3 + [LINES[0], LINES[8]]
    content = change("\n".join(lines) + "\n")  # type: ignore[operator]
    found = scan(io.BytesIO(content), INDEX, name="log")
    assert places(found.hits)[0] == [4]


def test_json_records_are_unpacked() -> None:
    records = [
        {"log": f"{LINES[7]}\n", "stream": "stderr"},
        {"message": f"Traceback:\n  File x\n\x1b[31m{LINES[4]}\x1b[0m\n", "level": 40},
        {"nested": {"texts": ["fine", LINES[1]]}},
    ]
    found = scan_text("\n".join(json.dumps(record) for record in records), INDEX, name="log")
    assert places(found.hits) == [[], [3], [], [2], [], [1]]
    assert found.hits[3][0].text == LINES[4]


def test_a_progress_bar_hides_nothing() -> None:
    found = scan_text(f"fine\nLoading: 10%\rLoading: 90%\r{LINES[4]}\nfine", INDEX, name="log")
    assert places(found.hits)[3] == [2]
    assert found.hits[3][0].text == LINES[4]


def test_lines_are_counted_across_blocks() -> None:
    quiet = [f"INFO 11-20 [loop.py:{number}] step {number} of a long night" for number in range(90_000)]
    for place in (1, 40_000, 89_999):
        lines = [*quiet]
        lines[place] = LINES[0]
        found = scan_text("\n".join(lines), INDEX, name="log")
        assert places(found.hits)[0] == [place + 1]


@pytest.mark.slow
def test_a_line_without_end_is_read_in_bounded_memory() -> None:
    class Endless(io.RawIOBase):
        left = 40

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            return b"x" * size if self.left > 0 else b" no kernel image " if self.left == 0 else b""

    found = scan(Endless(), INDEX, name="log")
    assert places(found.hits)[0] == [1]
    assert len(found.hits[0][0].text) < LINE_BYTES


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        ("driver is too old", (("driver is too old",),)),
        ("(?i)Error 80[23]", (("error 80",),)),
        (r"foo\d+bar", (("bar",), ("foo",))),
        (r"(?:first|second) word", (("first", "second"), (" word",))),
        (r"x(?:abc)?yz\s+driver", (("driver",), ("yz",))),
        (r"(?:optional)*needed", (("needed",),)),
        (r"\d+", ()),
        (r"(?:plain|\d+)", ()),
    ],
)
def test_required_literals(pattern: str, groups: tuple[tuple[str, ...], ...]) -> None:
    assert required_literals(pattern) == groups


def test_lines_of_one_kind_see_only_patterns_that_can_match_it() -> None:
    index = PatternIndex([SearchPattern(r"(?i)nccl.{0,40}timeout of 60\d s"), SearchPattern(r"(?i)nccl version 2\d")])
    lines = [b"nccl info channel 07 : 2 -> 3", b"nccl: timeout of 599 s", b"nccl version 19"]
    assert index.candidates(lines) == [[], [0], [1]]
    # The first line of a kind does not decide for the others where digits do.
    found = scan_text("NCCL version 19\nNCCL version 19\nNCCL version 21\n", index, name="log")
    assert [[hit.line for hit in hits] for hits in found.hits] == [[], [3]]


@pytest.mark.parametrize(
    ("pattern", "line", "other"),
    [
        (r"(?i)nccl.{0,40}version 2\.2[89]\b", "NCCL INFO version 2.7.1", "NCCL INFO version 2.28.3"),
        (r"sm_?90a\b", "code for sm_80", "code for sm_90a"),
        (r"\b(?:80|90a) only", "on 7 only", "on 90a only"),
        (r"failed! \(0x2[2-6]:0xffff\)", "failed! (0x1:0x5)", "failed! (0x24:0xffff)"),
        (r"(?<!x)\b(?!9)\d{3}\.[89] bad", "999.1 bad", "123.8 bad"),
        (r"card [0-9a-f]{8}-3 lost", "card f0e1d2c3-2 lost", "card 1234abcd-3 lost"),
    ],
)
def test_the_first_line_of_a_kind_does_not_hide_another(pattern: str, line: str, other: str) -> None:
    found = scan_text(f"{line}\n{line}\n{other}\n", PatternIndex([SearchPattern(pattern)]), name="log")
    assert places(found.hits) == [[3]]


def test_lines_that_differ_in_every_number_are_one_kind() -> None:
    line = b"gpu7:%d:91 [0] nccl info allreduce: opcount %x sendbuff 0x%x count %d comm 0xf6ce%d"
    assert len({line_kind(line % (n, n << 20, n << 30, n, n)) for n in range(1, 4000, 7)}) == 1
