"""Learned floors of a run: LOGS/learned/CLASS.json on the controller, and the record that they add to the checks of a host."""

import json
from collections.abc import Mapping
from pathlib import Path

from provision.core.files import write_atomically
from provision.core.json_text import parse_object
from provision.core.models.records import CheckRecord
from provision.core.redaction import scrub
from provision.features.measure.learned import HostClass, LearnedClass, beyond, by_class, is_green, learn, record_of
from provision.phases.verify.tool_output import Verified
from provision.run.context import RunContext
from provision.run.results import ProbedHosts


def _kept(path: Path, host_class: HostClass) -> LearnedClass | None:
    """Return the floors of a class from its file; None without any, and where they cannot be read: they are learned again."""
    try:
        learned = LearnedClass.model_validate(parse_object(path.read_bytes()))
    except (OSError, ValueError):
        return None
    return learned if learned.host_class == host_class else None


def with_records(
    context: RunContext, probed: ProbedHosts, answers: Mapping[str, Verified], *, learns: bool
) -> dict[str, Verified]:
    """Return the checks of hosts with what the figures of equal hosts say of them. Complete runs learn floors, where enough equals are healthy.

    Floors stay until a run has more healthy hosts than they were learned from: a class that becomes slower as a whole gets warnings,
    and does not lower its own floors.
    """
    folder, run = context.run.logs / "learned", context.run.name
    documents = {name: verified.document for name, verified in answers.items()}
    found = dict(answers)
    for host_class, equals in by_class(probed.facts, {**context.outcomes.checks, **documents}.values()).items():
        path = folder / f"{host_class.key}.json"
        learned = _kept(path, host_class)
        if learns:
            healthy = [one for one in equals if is_green(one) and not (learned and beyond(one, learned))]
            fresh = learn(host_class, healthy, run=run)
            if fresh and (learned is None or len(fresh.hosts) > len(learned.hosts)):
                learned = fresh
                write_atomically(path, json.dumps(scrub(fresh.model_dump(mode="json")), indent=2) + "\n")
                context.run.event("learned", phase="verify", hosts=fresh.hosts, path=str(path))
        if learned is None:
            continue
        for document in [one for one in equals if one["host"] in answers]:
            if record := record_of(document, learned, run=run):
                checks = (*answers[document["host"]].checks, CheckRecord.model_validate(record))
                found[document["host"]] = Verified(checks, {**document, "checks": [*document["checks"], record]})
    return found
