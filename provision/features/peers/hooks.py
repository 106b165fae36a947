"""Where hosts that hand files on, and own sources, take part in the sending of files."""

from collections import Counter
from collections.abc import Mapping, Sequence

from provision.core.models.inventory import Host
from provision.core.models.staged import StagedFile
from provision.features.peers.choice import choose
from provision.features.peers.distribution import Distribution
from provision.features.peers.relay import FIRST
from provision.run.context import RunContext
from provision.run.results import PlannedHosts
from provision.run.sending import SentBytes


def sending(context: RunContext, planned: PlannedHosts, files: Mapping[str, Sequence[StagedFile]]) -> Distribution:
    """Return the transfers of a step."""
    seen = context.state(SentBytes)
    choice = choose([context.host(name) for name, missing in files.items() if missing], files)
    seen.transfers = seen.transfers.model_copy(update={"reason": choice.reason})
    return Distribution(context, planned, files, choice)


def sent_early(planned: PlannedHosts, hosts: Sequence[Host]) -> list[Host]:
    """Return the hosts that the controller sends to: the first of each class, and those that take no part."""
    names = choose(hosts).names
    counts: Counter[str] = Counter()
    first = []
    for host in hosts:
        if host.name in names and host.source_of("wheels") != "controller":
            group = planned.plan.for_host(host.name).hosts[0]
            counts[group] += 1
            if counts[group] > FIRST:
                continue
        first.append(host)
    return first
