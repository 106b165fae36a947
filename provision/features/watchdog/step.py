"""The step that sets watchdogs up when hosts serve, before the gateway, which asks their health agents; the summary tells what they did."""

from provision.features.watchdog.health_agent import bring, sentence
from provision.report.history.runs import newest_with
from provision.run.context import RunContext
from provision.run.results import HostsT
from provision.run.served import ask_served
from provision.run.step import Step


def apply(context: RunContext, earlier: HostsT) -> HostsT:
    """Set the watchdogs up, and note what they did since the last run."""
    served = {name: one for name, one in ask_served(context, earlier).items() if one is not None}
    for name, record in bring(context, earlier, served).items():
        if not record.events:
            continue
        last = newest_with(context.run.logs, name, besides=context.run.name)
        if told := sentence(record.since(last.name if last else ""), is_down=False):
            context.add_note(name, told)
    return earlier


STEP = Step(
    "watchdog", apply, "serve", applies=lambda run: any(host.is_serving for host in run.inventory.hosts), after="serve"
)
