"""Where rollouts take part in the work of the core."""

import contextlib
from pathlib import Path

from provision.core.errors import HostLockedError, UsageError
from provision.core.run_folder import RunFolder
from provision.features.rollout.model import OPEN, Rollout, with_releases
from provision.features.rollout.store import RolloutStore
from provision.phases.probe.failure_evidence import Source
from provision.pipeline.diagnosis import source_of_run
from provision.pipeline.failure_evidence import failed_results
from provision.pipeline.runner import RunOutcome
from provision.report.difference import connections
from provision.report.run_files import results_of


def rolled_back(logs: Path, outcome: RunOutcome) -> None:
    """Let the record of the newest rollout say which of its hosts a run has taken back."""
    releases = {
        host.name: host.release
        for host in outcome.summary.hosts
        if not any(result.has_failed for result in host.phases.values())
    }
    now = connections(logs / outcome.summary.run)

    def revise(rollout: Rollout) -> Rollout:
        # Another inventory may have a host of the same name.
        then = connections(logs / rollout.name)
        same = {name: release for name, release in releases.items() if then.get(name, now.get(name)) == now.get(name)}
        return with_releases(rollout, same, outcome.summary.run)

    # The hosts are where they are, whatever becomes of the note.
    with contextlib.suppress(UsageError, HostLockedError, OSError):
        RolloutStore(logs).revise_newest(revise)


def steers_shares(logs: Path) -> bool:
    """Return whether a rollout is open, or may be: its record is damaged, or on another controller."""
    try:
        newest = RolloutStore(logs).newest()
    except UsageError:
        return True
    return newest is None or newest.state in OPEN


def earlier_failure(logs: Path, host: str, newest: str) -> Source | None:
    """Return the failure of a host in the rollout that its newest run belongs to; None without one."""
    try:
        rollout = RolloutStore(logs).with_run(newest)
    except UsageError:
        return None
    if rollout is None or rollout.state == "done":
        return None
    for name in reversed(rollout.runs):
        run = logs / name
        if failed := failed_results(results_of(RunFolder(run)).get(host, {})):
            return source_of_run(run, failed)
    refused = next((one for one in reversed(rollout.decisions) if one.verdict == "roll back"), None)
    if refused is None or not any(one.name == host and one.after for one in rollout.hosts):
        return None
    return Source("last_run", f"{refused.text}\n")
