"""The summary on a host, PREFIX/logs/summary.txt: what the newest run did there."""

from collections.abc import Container

from provision.core.errors import FirstlightError
from provision.core.models.inventory import Host
from provision.core.models.records import HostSummary, Summary
from provision.report import text
from provision.report.summary_builder import verdict
from provision.run.context import RunContext

NAME = "logs/summary.txt"
WRITE_DEADLINE_S = 60.0


def write_on_hosts(context: RunContext, summary: Summary, names: Container[str]) -> None:
    """Replace the summary on hosts, many at a time. One that does not answer any more has its summary on the controller."""
    paths = context.result.install_paths
    texts = {host.name: render(summary, host) for host in summary.hosts if host.name in names}

    def write(host: Host) -> None:
        own = paths[host.name]
        context.session(host).write(f"{own.prefix}/{NAME}", texts[host.name].encode(), root=own.root)

    done = context.ask_hosts([*map(context.host, texts)], write, deadline_s=WRITE_DEADLINE_S, retries=0)
    for error in done.errors.values():
        if not isinstance(error, FirstlightError):
            raise error


def render(summary: Summary, host: HostSummary) -> str:
    """Return a run's text as far as it concerns one host."""
    own = {
        "hosts": (host,),
        "changed": int(host.changed),
        # those of a fleet are about other hosts
        "next_commands": summary.next_commands if len(summary.hosts) == 1 else (),
        "verdict": verdict((host,), host_comparison=summary.host_comparison, interrupted=summary.interrupted),
    }
    return text.render(summary.model_copy(update=own))
