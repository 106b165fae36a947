"""Classes of hosts with the same Stack on the same devices: what was chosen, why, and the checks."""

from __future__ import annotations

from dataclasses import dataclass

from provision.core.models.records import HostSummary, Summary
from provision.core.models.stack import Reason
from provision.report import wording
from provision.report.group import Group
from provision.report.layout import fold_names


@dataclass(frozen=True)
class HostsClass(Group):
    """One class, numbered from 1 in the order of its first host."""

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
        hosts_of: dict[str, list[str]] = {}
        for host in self.hosts:
            for text in getattr(host, field):
                hosts_of.setdefault(text, []).append(host.name)
        return tuple((text, fold_names(names)) for text, names in hosts_of.items())


def classes(summary: Summary) -> tuple[HostsClass, ...]:
    """Group the hosts of a run into classes; hosts without a Stack form classes of their own."""
    groups: dict[object, list[HostSummary]] = {}
    for host in summary.hosts:
        likeness = (
            host.devices,
            host.stack.model_dump_json() if host.stack else None,
            tuple((reason.rule, reason.candidate, reason.text) for reason in host.reasons),
        )
        groups.setdefault(likeness, []).append(host)
    planned_first = sorted(groups.values(), key=lambda hosts: not (hosts[0].stack or hosts[0].reasons))
    return tuple(HostsClass(hosts=tuple(hosts), run=(), number=number) for number, hosts in enumerate(planned_first, 1))
