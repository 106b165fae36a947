"""The doctor: from texts and facts to findings."""

from __future__ import annotations

import io
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from verify.doctor import scoring
from verify.doctor.catalog import Cause, Role, Signature, load_causes
from verify.doctor.facts import extract_facts, fact_patterns, merge_facts
from verify.doctor.failure_detection import assess, is_quotation, is_unrelated
from verify.doctor.patterns import PatternIndex, SearchPattern
from verify.doctor.scanner import TEXT_LIMIT, Hit, ScanResult, scan
from verify.doctor.text_decoding import LINE_BYTES, Readable, plain_lines, strip_own_output
from verify.host.xid import explained
from verify.secret_masking import masked
from verify.tables import table

if TYPE_CHECKING:
    from verify.doctor.text_classifier import TextClassifier

NO_KNOWN_CAUSE = (
    "No line matches a known cause. Give the whole log, from the first line of the failed start. "
    "dmesg -T, nvidia-smi and `python -m torch.utils.collect_env` add facts about driver and environment."
)
EMPTY = "The text is empty."
NOTHING_FAILED = "No line reports a failure: there is no error, no exit status, and no start without its end."
GUESSED = "no line is as likely; the words of the text are typical of this cause"


@dataclass(frozen=True)
class Diagnosis:
    """The findings in one text, or in several together."""

    findings: tuple[scoring.Finding, ...]
    look_next: tuple[str, ...]
    """Where to look for the cause, if there is no finding."""


class Doctor:
    """A catalog and the index of its patterns, for any number of texts."""

    def __init__(
        self, causes: Sequence[Cause], load_classifier: Callable[[], TextClassifier | None] = lambda: None
    ) -> None:
        """Build the index; `load_classifier` is called when a text is to be guessed at, otherwise nothing is guessed."""
        self.causes = tuple(causes)
        self._load_classifier = load_classifier
        self._consequences = table("log_consequences")["consequence"]
        patterns = [*(SearchPattern(row["pattern"], limit=1) for row in self._consequences), *fact_patterns()]
        self._of_facts = slice(len(self._consequences), len(patterns))
        self._of_cause: dict[str, slice] = {}
        """Where the patterns of facts and of each cause are in the index."""
        self.signatures: dict[int, tuple[Cause, Signature]] = {}
        """The signatures by the number of their pattern in the index."""
        for cause in self.causes:
            begin = len(patterns)
            self.signatures |= {begin + number: (cause, each) for number, each in enumerate(cause.signatures)}
            patterns += [SearchPattern(each.pattern, each.near) for each in (*cause.signatures, *cause.counters)]
            self._of_cause[cause.id] = slice(begin, len(patterns))
        self.index = PatternIndex(patterns)

    def diagnose(
        self, streams: Mapping[str, Readable], facts: Mapping[str, Any] | None = None, *, guess: bool = True
    ) -> Diagnosis:
        """Find the causes that texts show together. Raises OSError where one cannot be read.

        Args:
            streams: The texts by name, in their order in time.
            facts: The facts of the host, as the probe reports them.
            guess: Use the text classifier as well, because a person may have written the texts.
        """
        stripped = {name: strip_own_output(stream) for name, stream in streams.items()}
        scans = [
            scan(stream, self.index, name=name, source=number)
            for number, (name, (stream, _)) in enumerate(stripped.items())
        ]
        return self.evaluate(scans, facts, guess=guess and all(is_described for _, is_described in stripped.values()))

    def evaluate(
        self, scans: Sequence[ScanResult], facts: Mapping[str, Any] | None = None, *, guess: bool = True
    ) -> Diagnosis:
        """Find the causes in texts that are already scanned, given in their order in time; see `diagnose`."""
        hits = [[hit for lines in same for hit in lines] for same in zip(*(found.hits for found in scans), strict=True)]
        hits = hits or [[] for _ in self.index.patterns]
        known = merge_facts(facts or {}, extract_facts(hits[self._of_facts]))
        size = sum(found.size for found in scans)
        texts = [_sample_lines(found, self.signatures) for found in scans]
        assessments = [assess(lines, self._sure_lines(found)) for found, lines in zip(scans, texts, strict=True)]
        if not any(each.failed for each in assessments):
            return Diagnosis((), (NOTHING_FAILED, NO_KNOWN_CAUSE) if size else self._advice((), size))
        unrelated = all(is_unrelated(lines) for lines in texts)
        # The highest role of lines with the severity INFO.
        info_role: Role | None = "symptom" if any(each.is_unfinished for each in assessments) else None
        if all(each.is_quoted for each in assessments):
            info_role = "cause"
        candidates = []
        for cause in self.causes:
            evidence = scoring.collect_evidence(cause, hits[self._of_cause[cause.id]], known, info_role=info_role)
            candidates += [evidence] if evidence and (not unrelated or evidence.holds_for_any_program) else []
        findings = scoring.rank(candidates)
        if guess and not unrelated and not any(each.is_log for each in assessments):
            own = ((cause, hits[self._of_cause[cause.id]]) for cause in self.causes)
            contradicted = {cause.id for cause, lines in own if any(lines[len(cause.signatures) :])}
            findings = self._with_guess(findings, scans, contradicted)
        return Diagnosis(findings, () if findings else self._advice(hits, size))

    def _sure_lines(self, found: ScanResult) -> list[str]:
        """Return the lines that make a cause sure by themselves."""
        sure = [number for number, (_, each) in self.signatures.items() if each.weight >= scoring.SURE_AT]
        return [hit.text for number in sure for hit in found.hits[number]]

    def _with_guess(
        self, findings: tuple[scoring.Finding, ...], scans: Sequence[ScanResult], contradicted: Container[str]
    ) -> tuple[scoring.Finding, ...]:
        """Put the classifier's guess about a short text first, unless a finding is as likely or a counter matches."""
        likeliest = findings[0].confidence if findings else 0.0
        if len(scans) != 1 or scans[0].size > scoring.GUESS_BYTES or likeliest >= scoring.LIKELY_AT:
            return findings
        classifier = self._load_classifier()
        if classifier is None:
            return findings
        lines = [
            Hit(0, number, part, scans[0].name, text)
            for number, line in enumerate(scans[0].start.split(b"\n"), 1)
            for part, text in enumerate(plain_lines(line))
        ]
        guess = classifier.guess(["" if self._says_nothing(line.text) else line.text for line in lines])
        if guess is None or guess.cause in contradicted or likeliest >= guess.confidence:
            return findings
        hits = tuple(replace(lines[number], text=lines[number].text[:TEXT_LIMIT]) for number in guess.lines)
        signature = Signature("", guess.confidence, f"its words: {', '.join(guess.words)}", "symptom")
        cause = next(cause for cause in self.causes if cause.id == guess.cause)
        known = next((finding.evidence.matches for finding in findings if finding.cause is cause), ())
        evidence = scoring.Evidence(cause, (*known, scoring.SignatureMatch(signature, hits)), (), ())
        first = scoring.Finding(evidence, guess.confidence, GUESSED)
        return (first, *(finding for finding in findings if finding.cause is not cause))

    def _says_nothing(self, line: str) -> bool:
        """Return whether a line follows from any cause, or quotes, so that its words suggest none."""
        patterns = self.index.patterns[: len(self._consequences)]
        return is_quotation(line) or any(pattern.expression.search(line[:LINE_BYTES]) for pattern in patterns)

    def _advice(self, hits: Sequence[Sequence[Hit]], size: int) -> tuple[str, ...]:
        if not size:
            return (EMPTY, NO_KNOWN_CAUSE)
        found = [
            f"line {lines[0].line} of {lines[0].file}: {masked(lines[0].text.strip())[:80]}\n{row.get('next') or explained(lines[0].text)}"
            for row, lines in zip(self._consequences, hits, strict=False)
            if lines
        ]
        return tuple(found) or (NO_KNOWN_CAUSE,)


def _sample_lines(found: ScanResult, signatures: Container[int]) -> list[str]:
    """Return all lines of a short text; of a long one the first, the last and those that match a signature."""
    ends = found.start + b"\n" + found.end if found.end else found.start
    matched = [hit.text for number, hits in enumerate(found.hits) if number in signatures for hit in hits]
    return [*(matched if found.end else ()), *ends.decode("utf-8", "replace").splitlines()]


@cache
def doctor() -> Doctor:
    """Return the doctor with the whole catalog."""
    return Doctor(load_causes(), _classifier)


def _classifier() -> TextClassifier | None:
    try:
        from verify.doctor.text_classifier import load_classifier  # noqa: PLC0415 - see below
    except ModuleNotFoundError:  # verify.pyz leaves the module out
        return None
    return load_classifier()


def diagnose_texts(
    texts: Mapping[str, str], facts: Mapping[str, Any] | None = None, *, guess: bool = True
) -> Diagnosis:
    """Find the causes that strings show together, see `Doctor.diagnose`."""
    streams = {name: io.BytesIO(text.encode("utf-8", "replace")) for name, text in texts.items()}
    return doctor().diagnose(streams, facts, guess=guess)
