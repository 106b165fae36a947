"""The watchdogs of a run: they are set up, and the summary tells what they did since the last run."""

from __future__ import annotations

from typing import TypeVar

from provision.features.watchdog.health_agent import bring
from provision.features.watchdog.record import sentence
from provision.report.history.runs import document, names, objects
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
        if told := sentence(record.since(_last_run(context, name)), is_down=False):
            context.record(result.model_copy(update={"notes": (*result.notes, told)}))
    return earlier


def _last_run(context: RunContext, host: str) -> str:
    """Return the name of the newest earlier run that had a host, which is the time of its start; empty without one."""
    for name in names(context.run.logs):
        summary = document(context.run.logs / name / "summary.json")
        if name != context.run.name and any(one.get("name") == host for one in objects(summary.get("hosts"))):
            return name
    return ""
