"""The watchdogs of a run: they are set up, and the summary tells what they did since the last run."""

from __future__ import annotations

from typing import TypeVar

from provision.features.watchdog.health_agent import bring
from provision.features.watchdog.record import sentence
from provision.report.history.runs import newest_with
from provision.run.context import RunContext
from provision.run.results import ProbedHosts
from provision.run.served import ask_served

ResultT = TypeVar("ResultT", bound=ProbedHosts)


def apply(context: RunContext, earlier: ResultT) -> ResultT:
    """Set the watchdogs up, and note what they did."""
    served = {name: one for name, one in ask_served(context, earlier).items() if one is not None}
    for name, record in bring(context, earlier, served).items():
        if not record.events or "serve" not in context.outcomes.results.get(name, {}):
            continue
        result = context.outcomes.results[name]["serve"]
        last = newest_with(context.run.logs, name, besides=context.run.name)
        if told := sentence(record.since(last.name if last else ""), is_down=False):
            context.record(result.model_copy(update={"notes": (*result.notes, told)}))
    return earlier
