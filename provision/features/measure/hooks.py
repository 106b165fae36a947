"""Where measuring takes part in the work of the core: learned floors, and a load after a launch.

The controller keeps floors in LOGS/learned/CLASS.json.
"""

import json
from dataclasses import replace
from pathlib import Path

from provision.core.files import write_atomically
from provision.core.json_text import parse_object
from provision.core.models.records import CheckRecord
from provision.core.redaction import scrub
from provision.features.measure.compare import measure
from provision.features.measure.learned import HostClass, LearnedClass, beyond, by_class, is_green, learn, record_of
from provision.phases.verify.run_checks import CheckOptions, Verified
from provision.pipeline import CommandRequest
from provision.pipeline.phases import BEFORE_PLAN
from provision.run.context import RunContext
from provision.run.results import ProbedHosts


def hosts_checked(
    context: RunContext, probed: ProbedHosts, answers: dict[str, Verified], options: CheckOptions
) -> dict[str, Verified]:
    """Return the checks of hosts with what the figures of equal hosts say of them. Complete runs learn floors, where enough equals are healthy.

    Floors stay until a run has more healthy hosts than they were learned from: a class that becomes slower as a whole gets warnings,
    and does not lower its own floors. A run that measures less keeps the floors of other figures.
    """
    if options.soak_minutes is not None or options.refute:
        return answers
    folder, run = context.run.logs / "learned", context.run.name
    documents = {name: verified.document for name, verified in answers.items()}
    found = dict(answers)
    for host_class, equals in by_class(probed.facts, {**context.outcomes.checks, **documents}.values()).items():
        path = folder / f"{host_class.key}.json"
        learned = _kept(path, host_class)
        if not options.selection:
            healthy = [one for one in equals if is_green(one) and not (learned and beyond(one, learned))]
            fresh = learn(host_class, healthy, run=run)
            if fresh and (learned is None or len(fresh.hosts) > len(learned.hosts)):
                known = {floor.name for floor in fresh.floors}
                older = [floor for floor in (learned.floors if learned else ()) if floor.name not in known]
                learned = fresh.model_copy(update={"floors": (*fresh.floors, *older)})
                write_atomically(path, json.dumps(scrub(learned.model_dump(mode="json")), indent=2) + "\n")
                context.run.event("learned", phase="verify", hosts=fresh.hosts, path=str(path))
        if learned is None:
            continue
        for document in [one for one in equals if one["host"] in answers]:
            if record := record_of(document, learned, run=run):
                found[document["host"]] = answers[document["host"]].plus(CheckRecord.model_validate(record))
    return found


def _kept(path: Path, host_class: HostClass) -> LearnedClass | None:
    """Return the floors of a class from its file; None without any, and where they cannot be read: they are learned again."""
    try:
        learned = LearnedClass.model_validate(parse_object(path.read_bytes()))
    except (OSError, ValueError):
        return None
    return learned if learned.host_class == host_class else None


def measured(request: CommandRequest) -> int:
    """Measure what the hosts of a command serve under the usual load, and return the exit code of `verify load`."""
    return measure(replace(request, command="verify", batching=None), "load", (), before=BEFORE_PLAN)
