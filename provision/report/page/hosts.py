"""Hosts on the page: their classes, a line for each host with its details, and the states for the filter."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from provision.core.grouping import gather
from provision.core.models.records import ENDED_BADLY, CheckRecord, HostSummary, Summary
from provision.core.models.stack import Reason
from provision.report import wording
from provision.report.group import Group, named_endpoint
from provision.report.layout import count, fold_names
from provision.report.summary_builder import describe_build

Tone = Literal["good", "warning", "bad", "neutral"]
"""Colour of a state; the page always shows its word as well."""
LONGEST_EVIDENCE = 600
"""Maximum characters of one value."""
WARNING = "warning"
"""Filter key for hosts with warnings or deviations, in any state."""


@dataclass(frozen=True)
class HostsClass(Group):
    """Hosts with the same Stack on the same devices: one class, numbered from 1 in the order of its first host."""

    number: int

    @property
    def chosen(self) -> list[Reason]:
        return [reason for reason in self.first.reasons if reason.verdict != "reject"]

    @property
    def refused(self) -> list[Reason]:
        return [reason for reason in self.first.reasons if reason.verdict == "reject"]

    @property
    def stack(self) -> tuple[tuple[str, str], ...]:
        """Name and build of every part."""
        return tuple(wording.stack_facts(self.first))

    def remarks(self, field: str) -> tuple[tuple[str, str], ...]:
        """Return each text of `deviations`, `warnings` or `notes` with its hosts."""
        hosts_of = gather((text, host.name) for host in self.hosts for text in getattr(host, field))
        return tuple((text, fold_names(names)) for text, names in hosts_of.items())


def classes(summary: Summary) -> tuple[HostsClass, ...]:
    """Group the hosts of a run into classes; hosts without a Stack form classes of their own."""
    groups = gather(
        (
            (
                host.devices,
                host.stack.model_dump_json() if host.stack else None,
                tuple((reason.rule, reason.candidate, reason.text) for reason in host.reasons),
            ),
            host,
        )
        for host in summary.hosts
    )
    planned_first = sorted(groups.values(), key=lambda hosts: not (hosts[0].stack or hosts[0].reasons))
    return tuple(HostsClass(hosts=tuple(hosts), run=(), number=number) for number, hosts in enumerate(planned_first, 1))


class HostLine:
    """One host: the visible line, and its details."""

    def __init__(self, number: int, host: HostSummary, summary: Summary, class_number: int) -> None:
        self.number, self.host, self.class_number = number, host, class_number
        self.kind, self.warnings = wording.kind(host), host.has_warnings
        tone = state_tone(host.state)
        self.tone: Tone = "warning" if tone != "bad" and host.has_warnings else tone
        self.build = describe_build(host.stack) if host.stack else ""
        self.checks = checks_in_words(host.checks)
        self.seconds = sum(result.seconds for result in host.phases.values())
        self.wrong = tuple(check for check in host.checks if check.status in ("warn", "fail", "error"))
        """Checks that did not pass."""
        self.facts = tuple(_facts(summary, host))

    @property
    def anchor(self) -> str:
        """Id for links, from the host's position, because a name may contain any character."""
        return f"host-{self.number}"


def state_tone(state: str) -> Tone:
    """Return the colour of a state."""
    if state in ENDED_BADLY:
        return "bad"
    return "good" if state in ("serving", "installed", "unchanged", *wording.ROLES) else "neutral"


def state_counts(lines: tuple[HostLine, ...]) -> list[tuple[str, str, Tone, int]]:
    """Return key, words, colour and number of hosts of each choice of the filter: states, worst first, then hosts with warnings."""
    counted = Counter[str](line.kind for line in lines)
    found: list[tuple[str, str, Tone, int]] = [
        (state, words, state_tone(state), counted[state])
        for state, words in (wording.STATE_WORDS | wording.ROLES).items()
    ]
    found.append((WARNING, "with warnings", "warning", sum(line.warnings for line in lines)))
    return [choice for choice in found if choice[-1]]


def evidence_lines(evidence: Any) -> Iterator[str]:
    """Yield a check's evidence, one line a key; long values are cut, the run's files have them in full."""
    pairs = evidence.items() if isinstance(evidence, Mapping) else [("", evidence)] if evidence else []
    for key, value in pairs:
        text = value if isinstance(value, str) else json.dumps(value)
        short = text if len(text) <= LONGEST_EVIDENCE else f"{text[:LONGEST_EVIDENCE]} …"
        yield f"{key}: {short}" if key else short


def checks_in_words(checks: Iterable[CheckRecord]) -> str:
    """Return counts such as `1 failed, 42 ok`, worst first."""
    counted = Counter[str](check.status for check in checks)
    words = {"fail": "failed", "error": "unclear", "warn": "warned", "ok": "ok"}
    return ", ".join(f"{counted[status]} {word}" for status, word in words.items() if counted[status])


def _facts(summary: Summary, host: HostSummary) -> Iterable[tuple[str, str]]:
    if host.devices:
        yield "devices", "; ".join(host.devices)
    if host.gateway:
        yield "gateway", "; ".join(wording.gateway_facts(host.gateway))
    if host.monitoring:
        yield (
            "monitoring",
            f"Prometheus at {host.monitoring.prometheus}, Alertmanager at {host.monitoring.alertmanager}",
        )
    if host.endpoint:
        yield "endpoint", named_endpoint(host.endpoint, [host])
    if attention := wording.attention_facts(host):
        yield "attention", attention
    if host.serve and host.serve.tokens_expected:
        right = wording.equal_tokens(host.serve)
        yield "tokens", f"{right} of {count(len(host.serve.tokens_expected), 'token')} equal the reference"
    if when := wording.verified_when(summary, host):
        yield "checks", when
    if host.prefix:
        yield "prefix", host.prefix
    if host.key_file:
        yield "API key", f"on the host, in {host.key_file}"
