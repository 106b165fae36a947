"""Learned floors of a run: LOGS/learned/CLASS.json on the controller, and the record that they add to the checks of a host."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provision.core.files import write_atomically
from provision.core.json_text import parse_object
from provision.core.models.records import CheckRecord
from provision.core.redaction import scrub
from provision.features.measure.learned import HostClass, LearnedClass, beyond, by_class, is_green, learn, record_of
from provision.phases.verify.run_checks import Verified
from provision.run.context import RunContext
from provision.run.results import ProbedHosts


class LearnedStore:
    """The floors that this controller knows of, one file a class."""

    def __init__(self, logs: Path) -> None:
        self._folder = logs / "learned"

    def put(self, learned: LearnedClass) -> Path:
        """Keep the floors of a class; after a power failure the old or the new ones are there."""
        path = self._path(learned.host_class)
        write_atomically(path, json.dumps(scrub(learned.model_dump(mode="json")), indent=2) + "\n")
        return path

    def get(self, host_class: HostClass) -> LearnedClass | None:
        """Return the floors of a class; None without any, and where they cannot be read: they are learned again."""
        try:
            learned = LearnedClass.model_validate(parse_object(self._path(host_class).read_bytes()))
        except (OSError, ValueError):
            return None
        return learned if learned.host_class == host_class else None

    def _path(self, host_class: HostClass) -> Path:
        return self._folder / f"{host_class.key}.json"


def with_records(
    context: RunContext, probed: ProbedHosts, answers: Mapping[str, Verified], *, learns: bool
) -> dict[str, Verified]:
    """Return the checks of hosts with what the figures of equal hosts say of them.

    Args:
        context: The run, with the documents of the hosts that it checked before.
        learns: Whether these are complete runs, which floors are learned from.
    """
    documents = {name: verified.document for name, verified in answers.items()}
    found = _records(context, probed, documents, learns=learns)
    return {name: _with(verified, found.get(name)) for name, verified in answers.items()}


def _with(verified: Verified, record: dict[str, Any] | None) -> Verified:
    if record is None:
        return verified
    document = {**verified.document, "checks": [*verified.document["checks"], record]}
    return Verified((*verified.checks, CheckRecord.model_validate(record)), document)


def _records(
    context: RunContext, probed: ProbedHosts, documents: Mapping[str, Mapping[str, Any]], *, learns: bool
) -> dict[str, dict[str, Any]]:
    """Return the record of each host whose class has floors, and learn them where enough equal hosts are healthy.

    Floors stay until a run has more healthy hosts than they were learned from: a class that becomes slower as a whole gets warnings,
    and does not lower its own floors.
    """
    store, run = LearnedStore(context.run.folder.parent), context.run.name
    found: dict[str, dict[str, Any]] = {}
    for host_class, equals in by_class(probed.facts, {**context.outcomes.checks, **documents}.values()).items():
        learned = store.get(host_class)
        if learns:
            healthy = [one for one in equals if is_green(one) and not (learned and beyond(one, learned))]
            fresh = learn(host_class, healthy, run=run)
            if fresh and (learned is None or len(fresh.hosts) > len(learned.hosts)):
                learned = fresh
                context.run.event("learned", phase="verify", hosts=fresh.hosts, path=str(store.put(fresh)))
        if learned is None:
            continue
        for document in equals:
            if document["host"] in documents and (record := record_of(document, learned, run=run)):
                found[document["host"]] = record
    return found
