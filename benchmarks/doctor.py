"""Accuracy of the doctor: how often its first finding is the true cause of a recorded failure.

    python -m benchmarks.doctor --cases DIR [--json OUT] [--verbose]

DIR holds a JSON file for each case, with `error_text`, `env_text` and the true `cause`. Each case is diagnosed

- with its error text (`error_text`),
- with its error text and its environment text (`with_env_text`),
- with its error text, without any signature that matches this case and no other (`unlearned`), because such a signature
  may have been written for this case. A cause with one case loses all its signatures there, so the figures for causes
  with several cases are listed as well.
- the same, but a signature that matches a message of its cause is kept (`unlearned_but_printed`): messages are written
  from the texts of programs and not from cases.

A case is sure and wrong if its first finding has a confidence of at least 0.75 and the true cause is not among the first
three. `calibration` is a cross-validation: it counts the findings of the unlearned cases and of healthy logs
(tests/doctor/healthy/) by confidence, and how many of them do not name the true cause. Any finding in a healthy log is
wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from verify.doctor.engine import diagnose_texts, doctor
from verify.doctor.scanner import scan_text
from verify.doctor.scoring import FINDING_AT, LIKELY_AT, SURE_AT, Finding

AIM_TOP_1, AIM_MACRO, AIM_SURE_AND_WRONG = 0.9, 0.85, 0.03
AIM_WRONG_OF_SURE = 0.01
WITHIN = 3
BANDS = (FINDING_AT, LIKELY_AT, SURE_AT)
ROOT = Path(__file__).resolve().parents[1]
HEALTHY = ROOT / "tests" / "doctor" / "healthy"


@dataclass(frozen=True)
class DoctorAnswer:
    """One case, and the findings of the doctor."""

    case: str
    truth: str
    findings: tuple[Finding, ...]

    @property
    def named(self) -> tuple[str, ...]:
        return tuple(finding.cause.id for finding in self.findings)

    @property
    def right(self) -> bool:
        return self.named[:1] == (self.truth,)

    @property
    def within(self) -> bool:
        return self.truth in self.named[:WITHIN]

    @property
    def sure_and_wrong(self) -> bool:
        return bool(self.findings) and self.findings[0].confidence >= SURE_AT and not self.within


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--verbose", action="store_true", help="every case that was not named first, with its text")
    given = parser.parse_args()
    cases = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(given.cases.glob("*.json"))]
    if not cases:
        parser.error(f"no *.json in {given.cases}")
    outcomes = evaluate(cases, environment=False)
    unlearned = evaluate_unlearned(cases)
    result: dict[str, Any] = {
        "error_text": figures(outcomes),
        "with_env_text": figures(evaluate(cases, environment=True)),
        "unlearned": figures(unlearned),
        "unlearned_of_causes_with_several_cases": figures(
            [outcome for outcome in unlearned if by_cause(outcomes)[outcome.truth]["cases"] > 1]
        ),
        "unlearned_but_printed": figures(evaluate_unlearned(cases, printed=printed())),
        "calibration": calibration([*unlearned, *healthy()]),
        "unlearned_confusions": confusions(unlearned),
        "causes": by_cause(outcomes),
        "confusions": confusions(outcomes),
        "signatures_of_one_case": single(outcomes),
        "causes_without_hits": without_hits(outcomes),
    }
    show(result)
    if given.verbose:
        texts = {case["id"]: case["error_text"] for case in cases}
        show_wrong(outcomes, texts)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    shown = result["error_text"]
    met = shown["top_1"] >= AIM_TOP_1 and shown["macro"] >= AIM_MACRO and shown["sure_and_wrong"] <= AIM_SURE_AND_WRONG
    sure = result["calibration"]["bands"][-1]
    return 0 if met and sure["wrong"] <= AIM_WRONG_OF_SURE * sure["findings"] else 1


def evaluate(cases: Sequence[dict[str, Any]], *, environment: bool) -> list[DoctorAnswer]:
    """Diagnose each case."""
    outcomes = []
    for case in cases:
        text = case["error_text"] + (f"\n{case['env_text']}" if environment and case.get("env_text") else "")
        outcomes.append(DoctorAnswer(case["id"], case["cause"], diagnose_texts({case["id"]: text}).findings))
    return outcomes


def printed() -> frozenset[int]:
    """Return the numbers of the signatures that match a message of their own cause."""
    found: set[int] = set()
    for cause in doctor().causes:
        for text in cause.messages:
            scan = scan_text(text, doctor().index, name=cause.id)
            found |= {number for number, (own, _) in doctor().signatures.items() if own is cause and scan.hits[number]}
    return frozenset(found)


def evaluate_unlearned(cases: Sequence[dict[str, Any]], *, printed: frozenset[int] = frozenset()) -> list[DoctorAnswer]:
    """Diagnose each case without signatures that match no other case, except those in `printed`."""
    scans = {case["id"]: scan_text(case["error_text"], doctor().index, name=case["id"]) for case in cases}
    matching = {place: {case for case, found in scans.items() if found.hits[place]} for place in doctor().signatures}
    outcomes = []
    for case in cases:
        found = scans[case["id"]]
        own = {place for place, seen in matching.items() if seen == {case["id"]}} - printed
        hits = [[] if place in own else lines for place, lines in enumerate(found.hits)]
        findings = doctor().evaluate([replace(found, hits=hits)]).findings
        outcomes.append(DoctorAnswer(case["id"], case["cause"], findings))
    return outcomes


def healthy() -> list[DoctorAnswer]:
    """Diagnose the healthy logs, in which any finding is wrong."""
    logs = sorted(HEALTHY.glob("*.log"))
    return [DoctorAnswer(path.stem, "", diagnose_texts({path.stem: path.read_text("utf-8")}).findings) for path in logs]


def calibration(outcomes: Sequence[DoctorAnswer]) -> dict[str, Any]:
    """Count the findings of each band of confidence, and those that do not name the true cause."""
    rows = [{"from": low, "findings": 0, "wrong": 0} for low in BANDS]
    wrong = []
    for outcome in outcomes:
        for finding in outcome.findings:
            row = max((row for row in rows if finding.confidence >= row["from"]), key=lambda row: row["from"])
            row["findings"] += 1
            row["wrong"] += finding.cause.id != outcome.truth
            if finding.confidence >= SURE_AT and finding.cause.id != outcome.truth:
                wrong.append(f"{outcome.case}: {finding.cause.id} {finding.confidence:.2f}")
    quiet = [outcome for outcome in outcomes if not outcome.truth]
    named = sorted(outcome.case for outcome in quiet if outcome.findings)
    return {"bands": rows, "sure_and_wrong": wrong, "healthy_logs": len(quiet), "healthy_with_finding": named}


def figures(outcomes: Sequence[DoctorAnswer]) -> dict[str, Any]:
    """Return shares of all cases; `macro` is the mean of the shares of each cause."""
    count = len(outcomes)
    shares = [row["right"] / row["cases"] for row in by_cause(outcomes).values()]
    return {
        "cases": count,
        "top_1": round(sum(outcome.right for outcome in outcomes) / count, 4),
        "top_3": round(sum(outcome.within for outcome in outcomes) / count, 4),
        "macro": round(sum(shares) / len(shares), 4),
        "sure_and_wrong": round(sum(outcome.sure_and_wrong for outcome in outcomes) / count, 4),
        "sure_and_wrong_cases": [outcome.case for outcome in outcomes if outcome.sure_and_wrong],
        "no_finding": sum(not outcome.findings for outcome in outcomes),
    }


def by_cause(outcomes: Iterable[DoctorAnswer]) -> dict[str, dict[str, int]]:
    """Count, for each true cause, its cases and how many were named first or among the first three."""
    rows: dict[str, dict[str, int]] = defaultdict(lambda: {"cases": 0, "right": 0, "within": 0})
    for outcome in outcomes:
        row = rows[outcome.truth]
        row["cases"] += 1
        row["right"] += outcome.right
        row["within"] += outcome.within
    return dict(sorted(rows.items()))


def confusions(outcomes: Iterable[DoctorAnswer]) -> list[dict[str, Any]]:
    """Return the cases whose true cause was not named first."""
    return [
        {
            "case": outcome.case,
            "truth": outcome.truth,
            "named": [f"{finding.cause.id} {finding.confidence:.2f}" for finding in outcome.findings[:WITHIN]],
        }
        for outcome in outcomes
        if not outcome.right
    ]


def single(outcomes: Iterable[DoctorAnswer]) -> list[dict[str, str]]:
    """Return signatures that match only one case: suspicious if the cause has several, or if the pattern is long."""
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    for outcome in outcomes:
        for finding in outcome.findings:
            for match in finding.evidence.matches:
                seen[finding.cause.id, match.signature.pattern].add(outcome.case)
    return [
        {"cause": cause, "pattern": pattern, "case": next(iter(cases))}
        for (cause, pattern), cases in sorted(seen.items())
        if len(cases) == 1
    ]


def without_hits(outcomes: Iterable[DoctorAnswer]) -> list[str]:
    """Return the causes that no case shows."""
    hit = Counter(name for outcome in outcomes for name in outcome.named)
    return [cause.id for cause in doctor().causes if not hit[cause.id]]


def show(result: dict[str, Any]) -> None:
    for name in (
        "error_text",
        "with_env_text",
        "unlearned",
        "unlearned_of_causes_with_several_cases",
        "unlearned_but_printed",
    ):
        shown = result[name]
        print(
            f"{name:<39} {shown['cases']} cases: top-1 {shown['top_1']:.3f}, top-{WITHIN} {shown['top_3']:.3f}, macro "
            f"{shown['macro']:.3f}, sure and wrong {shown['sure_and_wrong']:.3f} {shown['sure_and_wrong_cases']}, "
            f"no finding {shown['no_finding']}"
        )
    shown = result["calibration"]
    print(f"\nhealthy logs: {shown['healthy_logs']}, with a finding: {', '.join(shown['healthy_with_finding']) or '-'}")
    for row in shown["bands"]:
        print(f"confidence from {row['from']:.2f}: {row['findings']} findings, {row['wrong']} wrong")
    print(f"sure and wrong: {', '.join(shown['sure_and_wrong']) or '-'}")
    print("\ncause                          cases  first  within three")
    for cause, row in result["causes"].items():
        print(f"{cause:<30} {row['cases']:>5}  {row['right']:>5}  {row['within']:>12}")
    print("\nnot first:")
    for row in result["confusions"]:
        print(f"  {row['case']}  {row['truth']:<28} named: {', '.join(row['named']) or '-'}")
    print(f"\nsignatures that match one case alone: {len(result['signatures_of_one_case'])} (--json lists them)")
    print(f"causes that no case shows: {', '.join(result['causes_without_hits']) or '-'}")


def show_wrong(outcomes: Iterable[DoctorAnswer], texts: dict[str, str]) -> None:
    for outcome in outcomes:
        if outcome.right:
            continue
        print(f"\n=== {outcome.case}: {outcome.truth}")
        print(texts[outcome.case])
        for finding in outcome.findings[:WITHIN]:
            patterns = "; ".join(match.signature.pattern for match in finding.evidence.matches)
            print(f"--- {finding.cause.id} {finding.confidence:.2f}: {patterns}")


if __name__ == "__main__":
    sys.exit(main())
