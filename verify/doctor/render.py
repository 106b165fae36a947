"""A diagnosis as plain text, at most 100 columns wide, and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from verify.doctor.engine import Diagnosis
from verify.doctor.scanner import Hit
from verify.doctor.scoring import Finding
from verify.host.xid import explained
from verify.printable import WIDTH, wrapped
from verify.secret_masking import masked

LINES = 6
"""Maximum number of lines of evidence in the text of a finding."""


def render_text(name: str, diagnosis: Diagnosis, *, top: int) -> str:
    """Return a diagnosis of a file or host as text: at most `top` findings, each with its lines, reason, fix and check."""
    lines = [f"{name}:"]
    for number, finding in enumerate(diagnosis.findings[:top], 1):
        lines += ["", *_finding_lines(number, finding, name)]
    if not diagnosis.findings:
        lines += ["  no known cause found"]
        for advice in diagnosis.look_next:
            lines += ["", *(line for part in advice.split("\n") for line in wrapped("  ", part))]
    return "\n".join([*lines, ""])


def to_json(name: str, diagnosis: Diagnosis, *, top: int) -> dict[str, Any]:
    """Return a diagnosis as the document in docs/reference/doctor.md; arguments as for `render_text`."""
    found = {"file": name, "findings": [_finding_record(finding) for finding in diagnosis.findings[:top]]}
    return found if diagnosis.findings else {**found, "look_next": list(diagnosis.look_next)}


def _finding_record(finding: Finding) -> dict[str, Any]:
    cause = finding.cause
    return {
        "cause": cause.id,
        "confidence": finding.confidence,
        "definition": cause.definition.strip(),
        "explanation": cause.explanation.strip(),
        "evidence": [
            {"file": hit.file, "line": hit.line, "text": masked(hit.text.strip()), "why": why}
            for hit, why in evidence_lines(finding)
        ],
        "facts": [{"path": rule.path, "effect": rule.effect, "why": rule.why} for rule in finding.evidence.facts],
        "why": finding.why,
        "fix": [{**asdict(fix), "needs": list(fix.needs)} for fix in cause.fixes],
        "check": asdict(cause.check),
        "references": list(cause.references),
    }


def evidence_lines(finding: Finding) -> list[tuple[Hit, str]]:
    """Return each line of a finding once, in order, with its meaning if it is an event of a GPU, else the reason of its signature with the highest weight."""
    best: dict[Hit, tuple[float, str]] = {}
    for match in finding.evidence.matches:
        for hit in match.hits:
            if hit not in best or best[hit][0] < match.signature.weight:
                best[hit] = (match.signature.weight, match.signature.why)
    return [(hit, explained(hit.text) or best[hit][1]) for hit in sorted(best)]


def _finding_lines(number: int, finding: Finding, name: str) -> Iterator[str]:
    cause = finding.cause
    yield f"{number}. {cause.id}  ({finding.label}, {finding.confidence:.2f})"
    yield from wrapped("   ", cause.definition.strip())
    shown = evidence_lines(finding)
    last_why, file = "", name
    for hit, why in shown[:LINES]:
        if hit.file != file:
            yield f"   in {hit.file}:"
            file = hit.file
        yield from _quote(f"   {hit.line:>6} | ", masked(hit.text.strip()))
        if why != last_why:
            yield from wrapped(" " * 9 + "^ ", why)
            last_why = why
    if len(shown) > LINES:
        yield f"          and {len(shown) - LINES} more lines"
    for rule in finding.evidence.facts:
        yield from wrapped("   fact   ", f"{rule.path}: {rule.why}")
    for against in finding.evidence.against:
        yield from wrapped("   but    ", f"line {against.hits[0].line}: {against.signature.why}")
    yield from wrapped("   why    ", cause.explanation.strip())
    yield from wrapped("   rank   ", finding.why)
    for step, fix in enumerate(cause.fixes, 1):
        needs = f" (needs {', '.join(fix.needs)})" if fix.needs else ""
        yield from wrapped("   fix    " if step == 1 else " " * 10, f"{step}. {fix.text}{needs}")
        for command in fix.command.strip().splitlines():
            yield f"             $ {command}"
    if cause.check.command:
        yield f"   check  $ {cause.check.command.strip()}"
    yield from wrapped("   expect " if cause.check.command else "   check  ", cause.check.expect)


def _quote(head: str, line: str) -> Iterator[str]:
    """Yield a log line unchanged, in rows of the width that is left."""
    width = WIDTH - len(head)
    for begin in range(0, max(len(line), 1), width):
        yield head + line[begin : begin + width]
        head = " " * (len(head) - 2) + "| "
