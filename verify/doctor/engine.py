"""The doctor: texts and facts in, findings out."""

from __future__ import annotations

import io
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from verify.doctor import environment
from verify.doctor.catalog import Cause, Role, Signature, catalogue, consequences, words
from verify.doctor.evidence import TEXT_LIMIT, Hit, Index, Probe, Scan, scan
from verify.doctor.facts import merge
from verify.doctor.failure import Verdict, is_foreign, verdict
from verify.doctor.own import foreign as without_ours
from verify.doctor.reading import LINE_BYTES, Readable, plain
from verify.doctor.score import GUESS_BYTES, LIKELY_AT, SURE_AT, Evidence, Finding, Match, collect, rank

if TYPE_CHECKING:
    from verify.doctor.words import Words

NOWHERE = (
    "Nothing in it is a known sign of a failure. Give the whole log from the first line of the failed start; "
    "dmesg -T, nvidia-smi and `python -m torch.utils.collect_env` tell about driver and environment."
)
EMPTY = "There is no text in it."
WELL = "Nothing in it says that anything failed: no error, no exit status, and no end in the middle of something."
GUESSED = "no line tells more than the words of the text, which are those of this cause"


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor says of one text, or of several together."""

    findings: tuple[Finding, ...]
    look_next: tuple[str, ...]
    """Without a finding: where the cause may stand."""
    facts: Mapping[str, Any]
    """What was known: the facts given, and those that stand in the text."""


class Doctor:
    """A catalogue made ready; good for any number of texts."""

    def __init__(self, causes: Sequence[Cause], words: Callable[[], Words | None] = lambda: None) -> None:
        self.causes = tuple(causes)
        self._words = words
        """Learned when they are first asked for; without them nothing is guessed."""
        self._environment = environment.probes()
        self._consequences = consequences()
        probes = [*self._environment, *(Probe(pattern, limit=1) for pattern, _ in self._consequences)]
        self.signatures: dict[int, tuple[Cause, Signature]] = {}
        """The causes' signatures by their place among the index's probes."""
        for cause in self.causes:
            self.signatures |= {len(probes) + place: (cause, each) for place, each in enumerate(cause.signatures)}
            probes += [Probe(signature.pattern, signature.near) for signature in cause.signatures]
            probes += [Probe(counter.pattern, counter.near) for counter in cause.counters]
        self.index = Index(probes)

    def diagnose(
        self, streams: Mapping[str, Readable], facts: Mapping[str, Any] | None = None, *, guess: bool = True
    ) -> Diagnosis:
        """Name the causes that the texts show together, by name in their order in time; `guess`: also by words. Raises OSError."""
        others = {name: without_ours(stream) for name, stream in streams.items()}
        scans = [
            scan(stream, self.index, name=name, source=number)
            for number, (name, (stream, _)) in enumerate(others.items())
        ]
        return self.judge(scans, facts, described=guess and all(described for _, described in others.values()))

    def judge(
        self, scans: Sequence[Scan], facts: Mapping[str, Any] | None = None, *, described: bool = True
    ) -> Diagnosis:
        """The same for texts that were read already; `described`: whether a person may have written them."""
        hits = [[hit for lines in same for hit in lines] for same in zip(*(found.hits for found in scans), strict=True)]
        hits = hits or [[] for _ in self.index.probes]
        begin = len(self._environment)
        known = merge(facts or {}, environment.facts(hits[:begin]))
        following = hits[begin : begin + len(self._consequences)]
        begin += len(self._consequences)
        size = sum(found.size for found in scans)
        told = [_told(found, self.signatures) for found in scans]
        verdicts = [verdict(lines, self._signs(found)) for found, lines in zip(scans, told, strict=True)]
        if not any(each.failed for each in verdicts):
            return Diagnosis((), self._advice((), size) if not size else (WELL, NOWHERE), known)
        foreign = all(is_foreign(lines) for lines in told)
        reports = _reports(verdicts)
        candidates = []
        for cause in self.causes:
            end = begin + len(cause.signatures) + len(cause.counters)
            evidence = collect(cause, hits[begin:end], known, reports=reports)
            candidates += [evidence] if evidence and (not foreign or evidence.is_telling) else []
            begin = end
        findings = rank(candidates)
        if described and not foreign and not any(each.is_log for each in verdicts):
            findings = self._with_guess(findings, scans, self._spoken_against(hits))
        return Diagnosis(findings, () if findings else self._advice(following, size), known)

    def _signs(self, found: Scan) -> list[str]:
        """The lines that make a cause sure by themselves."""
        sure = [place for place, (_, each) in self.signatures.items() if each.weight >= SURE_AT]
        return [hit.text for place in sure for hit in found.hits[place]]

    def _spoken_against(self, hits: Sequence[Sequence[Hit]]) -> frozenset[str]:
        """The causes against which a line speaks."""
        begin, against = len(self._environment) + len(self._consequences), set()
        for cause in self.causes:
            counters = begin + len(cause.signatures)
            begin = counters + len(cause.counters)
            against |= {cause.id} if any(hits[counters:begin]) else set()
        return frozenset(against)

    def _with_guess(
        self, findings: tuple[Finding, ...], scans: Sequence[Scan], against: Container[str]
    ) -> tuple[Finding, ...]:
        """What the words of a short text suggest stands first where its lines make nothing as likely.

        Not so a cause in `against`: a line tells more than words.
        """
        if len(scans) != 1 or scans[0].size > GUESS_BYTES or (findings and findings[0].confidence >= LIKELY_AT):
            return findings
        words = self._words()
        if words is None or (findings and findings[0].confidence >= words.highest):
            return findings
        lines = [
            Hit(0, number, part, scans[0].name, text)
            for number, line in enumerate(scans[0].start.split(b"\n"), 1)
            for part, text in enumerate(plain(line))
        ]
        guess = words.guess("\n".join("" if self._follows(line.text) else line.text for line in lines))
        if guess is None or guess.cause in against or (findings and findings[0].confidence >= guess.confidence):
            return findings
        hits = tuple(replace(lines[place], text=lines[place].text[:TEXT_LIMIT]) for place in guess.lines)
        said = Match(Signature("", guess.confidence, "symptom", f"its words: {', '.join(guess.words)}"), hits)
        cause = next(cause for cause in self.causes if cause.id == guess.cause)
        known = next((finding.evidence.matches for finding in findings if finding.cause is cause), ())
        first = Finding(Evidence(cause, (*known, said), (), ()), guess.confidence, GUESSED, guessed=True)
        return (first, *(finding for finding in findings if finding.cause is not cause))

    def _follows(self, line: str) -> bool:
        """Whether a line follows from any cause, so that its words tell of none."""
        begin = len(self._environment)
        following = self.index.probes[begin : begin + len(self._consequences)]
        return any(probe.expression.search(line[:LINE_BYTES]) for probe in following)

    def _advice(self, following: Sequence[Sequence[Hit]], size: int) -> tuple[str, ...]:
        if not size:
            return (EMPTY, NOWHERE)
        seen = [
            f"line {lines[0].line} of {lines[0].file}: {lines[0].text.strip()[:80]}\n{advice}"
            for (_, advice), lines in zip(self._consequences, following, strict=True)
            if lines
        ]
        return tuple(seen) or (NOWHERE,)


def _reports(verdicts: Sequence[Verdict]) -> Role | None:
    """What lines are worth that only report, in texts of these verdicts."""
    if all(each.is_quoted for each in verdicts):
        return "cause"
    return "symptom" if any(each.is_unfinished for each in verdicts) else None


def _told(found: Scan, signatures: Container[int]) -> list[str]:
    """The lines by which it is decided whether a text failed: all of a short one; of a long one the first, the last, the signs."""
    ends = found.start + b"\n" + found.end if found.end else found.start
    signs = [hit.text for place, hits in enumerate(found.hits) if place in signatures for hit in hits]
    return [*(signs if found.end else ()), *ends.decode("utf-8", "replace").splitlines()]


@cache
def doctor() -> Doctor:
    """The doctor with the whole catalogue. Raises CatalogError."""
    return Doctor(catalogue(), words)


def diagnose_texts(
    texts: Mapping[str, str], facts: Mapping[str, Any] | None = None, *, guess: bool = True
) -> Diagnosis:
    """Name the causes that texts at hand show; `guess`: also by the words of a short one."""
    streams = {name: io.BytesIO(text.encode("utf-8", "replace")) for name, text in texts.items()}
    return doctor().diagnose(streams, facts, guess=guess)
