"""Accuracy of the doctor: how often its first finding is the true cause of a recorded failure.

    .venv/bin/python -m benchmarks.doctor --cases DIR

DIR holds a JSON file for each case, with `id`, `error_text`, `env_text` and the true `cause`. Each case is diagnosed

- with its error text (`error_text`),
- with its error text and its environment text (`with_env_text`),
- with its error text, without any signature that matches this case and no other (`unlearned`), because such a signature
  may have been written for this case. A cause with one case loses all its signatures there.

A case is sure and wrong if its first finding has a confidence of at least 0.75 and the true cause is not among the first
three. `calibration` is a cross-validation: it counts the findings of the unlearned cases and of healthy logs
(tests/doctor/healthy/) by confidence, and how many of them do not name the true cause. Any finding in a healthy log is
wrong.
"""

from __future__ import annotations

import io
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, header, parser, publish
from verify.doctor.engine import diagnose_texts, doctor
from verify.doctor.scanner import scan
from verify.doctor.scoring import FINDING_AT, LIKELY_AT, SURE_AT, Finding

AIM_TOP_1, AIM_MACRO, AIM_SURE_AND_WRONG = 0.9, 0.85, 0.03
AIM_WRONG_OF_SURE = 0.01
WITHIN = 3
BANDS = (FINDING_AT, LIKELY_AT, SURE_AT)
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


def evaluate(cases: Sequence[dict[str, Any]], *, environment: bool) -> list[DoctorAnswer]:
    """Diagnose each case."""
    answers = []
    for case in cases:
        text = case["error_text"] + (f"\n{case['env_text']}" if environment and case.get("env_text") else "")
        answers.append(DoctorAnswer(case["id"], case["cause"], diagnose_texts({case["id"]: text}).findings))
    return answers


def evaluate_unlearned(cases: Sequence[dict[str, Any]]) -> list[DoctorAnswer]:
    """Diagnose each case without signatures that match no other case."""
    texts = {case["id"]: io.BytesIO(case["error_text"].encode("utf-8", "replace")) for case in cases}
    scans = {name: scan(text, doctor().index, name=name) for name, text in texts.items()}
    matching = {place: {case for case, found in scans.items() if found.hits[place]} for place in doctor().signatures}
    answers = []
    for case in cases:
        found = scans[case["id"]]
        own = {place for place, seen in matching.items() if seen == {case["id"]}}
        hits = [[] if place in own else lines for place, lines in enumerate(found.hits)]
        findings = doctor().evaluate([replace(found, hits=hits)]).findings
        answers.append(DoctorAnswer(case["id"], case["cause"], findings))
    return answers


def healthy() -> list[DoctorAnswer]:
    """Diagnose the healthy logs, in which any finding is wrong."""
    logs = sorted(HEALTHY.glob("*.log"))
    return [DoctorAnswer(path.stem, "", diagnose_texts({path.stem: path.read_text("utf-8")}).findings) for path in logs]


def calibration(answers: Sequence[DoctorAnswer]) -> dict[str, Any]:
    """Count the findings of each band of confidence, and those that do not name the true cause."""
    rows = [{"from": low, "findings": 0, "wrong": 0} for low in BANDS]
    for answer in answers:
        for finding in answer.findings:
            row = max((row for row in rows if finding.confidence >= row["from"]), key=lambda row: row["from"])
            row["findings"] += 1
            row["wrong"] += finding.cause.id != answer.truth
    quiet = [answer for answer in answers if not answer.truth]
    named = sorted(answer.case for answer in quiet if answer.findings)
    return {"bands": rows, "healthy_logs": len(quiet), "healthy_with_finding": named}


def figures(answers: Sequence[DoctorAnswer]) -> dict[str, Any]:
    """Return shares of all cases; `macro` is the mean of the shares of each cause."""
    count = len(answers)
    shares = [row["right"] / row["cases"] for row in by_cause(answers).values()]
    return {
        "cases": count,
        "top_1": round(sum(answer.right for answer in answers) / count, 4),
        "top_3": round(sum(answer.within for answer in answers) / count, 4),
        "macro": round(sum(shares) / len(shares), 4),
        "sure_and_wrong": round(sum(answer.sure_and_wrong for answer in answers) / count, 4),
        "sure_and_wrong_cases": [answer.case for answer in answers if answer.sure_and_wrong],
        "no_finding": sum(not answer.findings for answer in answers),
    }


def by_cause(answers: Iterable[DoctorAnswer]) -> dict[str, dict[str, int]]:
    """Count, for each true cause, its cases and how many were named first or among the first three."""
    rows: dict[str, dict[str, int]] = defaultdict(lambda: {"cases": 0, "right": 0, "within": 0})
    for answer in answers:
        row = rows[answer.truth]
        row["cases"] += 1
        row["right"] += answer.right
        row["within"] += answer.within
    return dict(sorted(rows.items()))


def confusions(answers: Iterable[DoctorAnswer]) -> list[dict[str, Any]]:
    """Return the cases whose true cause was not named first."""
    return [
        {
            "case": answer.case,
            "truth": answer.truth,
            "named": [f"{finding.cause.id} {finding.confidence:.2f}" for finding in answer.findings[:WITHIN]],
        }
        for answer in answers
        if not answer.right
    ]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--cases", type=Path, required=True)
    given = options.parse_args()
    cases = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(given.cases.glob("*.json"))]
    if not cases:
        options.error(f"no *.json in {given.cases}")
    learned, unlearned = evaluate(cases, environment=False), evaluate_unlearned(cases)
    result = header("doctor") | {
        "error_text": figures(learned),
        "with_env_text": figures(evaluate(cases, environment=True)),
        "unlearned": figures(unlearned),
        "calibration": calibration([*unlearned, *healthy()]),
        "confusions": confusions(learned),
        "unlearned_confusions": confusions(unlearned),
        "causes": by_cause(learned),
    }
    shown, sure = result["error_text"], result["calibration"]["bands"][-1]
    met = shown["top_1"] >= AIM_TOP_1 and shown["macro"] >= AIM_MACRO and shown["sure_and_wrong"] <= AIM_SURE_AND_WRONG
    met = met and sure["wrong"] <= AIM_WRONG_OF_SURE * sure["findings"]
    result["aim"] = {"top_1": AIM_TOP_1, "macro": AIM_MACRO, "sure_and_wrong": AIM_SURE_AND_WRONG, "met": met}
    publish(result, "doctor", always=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
