"""A diagnosis as plain text, at most 100 columns wide, and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from verify.doctor.engine import Diagnosis
from verify.doctor.evidence import Hit
from verify.doctor.score import Finding
from verify.masking import masked

WIDTH = 100
LINES = 6
"""Lines of evidence that a text shows for a finding."""


def text(name: str, diagnosis: Diagnosis, *, top: int) -> str:
    """What people read: the finding first, then its lines, the reason, the fix and how to check it."""
    lines = [f"{name}:"]
    for number, finding in enumerate(diagnosis.findings[:top], 1):
        lines += ["", *_finding(number, finding, name)]
    if not diagnosis.findings:
        lines += ["  no known cause shows in this text"]
        for advice in diagnosis.look_next:
            lines += ["", *(line for part in advice.split("\n") for line in _wrapped("  ", part))]
    return "\n".join([*lines, ""])


def document(name: str, diagnosis: Diagnosis, *, top: int) -> dict[str, Any]:
    """What programs read (docs/reference/doctor.md)."""
    found: dict[str, Any] = {"file": name, "findings": [record(finding) for finding in diagnosis.findings[:top]]}
    return found if diagnosis.findings else {**found, "look_next": list(diagnosis.look_next)}


def record(finding: Finding) -> dict[str, Any]:
    """One finding as JSON."""
    cause = finding.cause
    return {
        "cause": cause.id,
        "confidence": finding.confidence,
        "definition": cause.definition.strip(),
        "explanation": cause.explanation.strip(),
        "evidence": [
            {"file": hit.file, "line": hit.line, "text": masked(hit.text.strip()), "why": why}
            for hit, why in evidence(finding)
        ],
        "facts": [{"path": rule.path, "effect": rule.effect, "why": rule.why} for rule in finding.evidence.facts],
        "why": finding.why,
        "fix": [
            {"text": fix.text, "command": fix.command, "needs": list(fix.needs), "safe": fix.safe, "tag": fix.tag}
            for fix in cause.fixes
        ],
        "check": {"command": cause.check.command, "expect": cause.check.expect},
        "references": list(cause.references),
    }


def evidence(finding: Finding) -> list[tuple[Hit, str]]:
    """The lines of a finding in order, each once, with what the most telling signature says of it."""
    told: dict[Hit, tuple[float, str]] = {}
    for match in finding.evidence.matches:
        for hit in match.hits:
            if hit not in told or told[hit][0] < match.signature.weight:
                told[hit] = (match.signature.weight, match.signature.why)
    return [(hit, told[hit][1]) for hit in sorted(told)]


def _finding(number: int, finding: Finding, name: str) -> Iterator[str]:
    cause = finding.cause
    yield f"{number}. {cause.id}  ({finding.word}, {finding.confidence:.2f})"
    yield from _wrapped("   ", cause.definition.strip())
    shown = evidence(finding)
    said, file = "", name
    for hit, why in shown[:LINES]:
        if hit.file != file:
            yield f"   in {hit.file}:"
            file = hit.file
        yield from _quoted(f"   {hit.line:>6} | ", masked(hit.text.strip()))
        if why != said:
            yield from _wrapped(" " * 9 + "^ ", why)
            said = why
    if len(shown) > LINES:
        yield f"          and {len(shown) - LINES} more lines"
    for rule in finding.evidence.facts:
        yield from _wrapped("   fact   ", f"{rule.path}: {rule.why}")
    for against in finding.evidence.against:
        yield from _wrapped("   but    ", f"line {against.hits[0].line}: {against.counter.why}")
    yield from _wrapped("   why    ", cause.explanation.strip())
    yield from _wrapped("   rank   ", finding.why)
    for step, fix in enumerate(cause.fixes, 1):
        needs = f" (needs {', '.join(fix.needs)})" if fix.needs else ""
        yield from _wrapped("   fix    " if step == 1 else " " * 10, f"{step}. {fix.text}{needs}")
        for command in fix.command.strip().splitlines():
            yield f"             $ {command}"
    if cause.check.command:
        yield f"   check  $ {cause.check.command.strip()}"
    yield from _wrapped("   expect " if cause.check.command else "   check  ", cause.check.expect)


def _wrapped(start: str, text: str) -> list[str]:
    """A paragraph; what follows the first line stands below its text."""
    lines = textwrap.wrap(text, WIDTH - len(start), break_on_hyphens=False) or [""]
    return [start + lines[0], *(" " * len(start) + line for line in lines[1:])]


def _quoted(head: str, line: str) -> Iterator[str]:
    """A line as it stands, in rows of the width that is left."""
    width = WIDTH - len(head)
    for place in range(0, max(len(line), 1), width):
        yield head + line[place : place + width]
        head = " " * (len(head) - 2) + "| "
