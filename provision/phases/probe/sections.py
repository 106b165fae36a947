"""Sections of the probe script's output. Any text gives a result; a cut one gives fewer sections."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from provision.core.grouping import gather

ABSENT = 127
_LONGEST_REASON = 200
SECTION_CHARS = 4 << 20
"""Limit per section: the largest real one, the state of an installation with its last checks, has 0.3 MB."""
LINE_CHARS = 8 << 10
"""Limit per line outside `LONG_LINES`: the longest real line, a CPU's flags, has 3,000 characters."""
LONG_LINES = "installed"
"""Section that holds whole JSON documents, one per line."""

_WHY_MISSING = {
    "BUDGET": "the probe's time was over before this was read",
    "NOWHERE": "no folder on the host could be written: /tmp, /dev/shm, /var/tmp and the home are full or read-only",
    None: "the probe's output was cut",
}
"""By the outcome of the script."""

_TERMINAL_CODES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_OPENING = re.compile(r"^@@([0-9a-z]+) start$", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """One section: its text and exit status.

    `status` is 124 after a timeout, 127 when the program is not installed, None when the section's end is missing.
    """

    name: str
    text: str
    status: int | None = None
    reason: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 0

    @property
    def absent(self) -> bool:
        """Return whether what the section reads does not exist, which is no failure."""
        return self.status == ABSENT

    @property
    def failure(self) -> str:
        """Return why the section is incomplete."""
        if self.status is None:
            return self.reason or "the probe gave this section up, or its output was cut"
        # Some tools print their error where the answer should be.
        said = next((line.strip() for line in self.lines() if line.strip()), "")
        return self.reason or said[:_LONGEST_REASON] or f"ended with {self.status}"

    def note_failure(self, unknown: dict[str, str], path: str, *, may_be_absent: bool = False) -> None:
        """Enter why the section is incomplete as the reason of an unknown fact."""
        if not self.ok and not (may_be_absent and self.absent):
            unknown[path] = self.failure

    def lines(self) -> list[str]:
        return self.text.split("\n")

    def values(self, key: str) -> list[str]:
        """Return the values of all `key=value` lines."""
        return self._by_key.get(key, [])

    @cached_property
    def _by_key(self) -> dict[str, list[str]]:
        parts = (line.partition("=") for line in self.lines())
        return gather((key, value.strip()) for key, separator, value in parts if separator)

    def value(self, key: str) -> str | None:
        """Return the first non-empty value of a key."""
        return next((value for value in self.values(key) if value), None)

    def by_file(self) -> Iterator[tuple[str, str]]:
        """Yield path and line of each `path:line` line, as `grep -H` prints them.

        File names hold no colon; only folders that are named after PCI addresses do.
        """
        for line in self.lines():
            if line.startswith("/"):
                head, _, tail = line.rpartition("/")
                name, separator, content = tail.partition(":")
                if separator:
                    yield f"{head}/{name}", content.strip()


@dataclass(frozen=True)
class Output:
    """All sections by name, and the host's clock at the end of the script."""

    nonce: str
    sections: dict[str, Section] = field(default_factory=dict)
    clock: float | None = None
    """Seconds since 1970; None where the script could not read it."""
    outcome: str | None = None
    """ALL, BUDGET or NOWHERE as the script reports it; None when the end is missing."""

    def __getitem__(self, name: str) -> Section:
        """Return a section. One that the output lacks has no status and a reason."""
        found = self.sections.get(name)
        if found is not None and found.status is not None:
            return found
        reason = _WHY_MISSING.get(self.outcome, "the probe did not report this")
        return Section(name=name, text=found.text if found else "", reason=reason)

    def overlaid(self, other: Output) -> Output:
        """Return a copy with the complete sections of another output of the same nonce."""
        whole = {name: section for name, section in other.sections.items() if section.status is not None}
        return replace(self, sections={**self.sections, **whole}) if other.nonce == self.nonce else self


def clean(output: str | bytes) -> str:
    """Remove what terminals and transports add: CR, NUL, escape sequences, undecodable bytes."""
    text = (
        output.decode("utf-8", "replace") if isinstance(output, bytes) else output.encode("utf-8", "replace").decode()
    )
    return _TERMINAL_CODES.sub("", text).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def split(output: str | bytes) -> Output:
    """Cut the script's output into sections; drop text before its first marker line (a login banner)."""
    text = clean(output)
    opening = _OPENING.search(text)
    if not opening:
        return Output(nonce="")
    nonce = opening[1]
    sections: dict[str, Section] = {}
    clock: float | None = None
    outcome: str | None = None
    for mark, body in marked(text[opening.end() :], nonce, "begin", "end", "clock", "over"):
        word, _, rest = mark.partition(" ")
        match word:
            case "begin":
                sections[rest.strip()] = Section(name=rest.strip(), text=_bounded(rest.strip(), body.strip("\n")))
            case "end":
                _end(sections, rest)
            case "clock":
                # busybox's date may not support nanoseconds; it then prints the format letter.
                read = re.match(r"[0-9]{1,12}(?:\.[0-9]{1,9})?", rest.strip())
                clock = float(read[0]) if read else None
            case "over":
                outcome = rest.strip()
    return Output(nonce=nonce, sections=sections, clock=clock, outcome=outcome)


def marked(text: str, nonce: str, *words: str) -> Iterator[tuple[str, str]]:
    """Yield each marker line that begins with one of the words, without its mark, and the text up to the next one."""
    parts = re.split(rf"^@@{nonce} ((?:{'|'.join(words)}).*)\n?", text, flags=re.MULTILINE)
    for mark, body in zip(parts[1::2], parts[2::2], strict=True):
        yield mark, body.removesuffix("\n")


def _bounded(name: str, text: str) -> str:
    """Limit a section to a realistic size: a host can send any text, and the controller stores and prints it."""
    if len(text) > LINE_CHARS and name != LONG_LINES:
        text = "\n".join(line[:LINE_CHARS] for line in text[:SECTION_CHARS].split("\n"))
    return text[:SECTION_CHARS]


def _end(sections: dict[str, Section], line: str) -> None:
    match = re.fullmatch(r"(\w+) ([0-9]{1,3}) ?(.*)", line)
    if match and match[1] in sections:
        sections[match[1]] = replace(sections[match[1]], status=int(match[2]), reason=match[3].strip())
