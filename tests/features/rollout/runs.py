"""Invented runs of rollouts for the pictures of the guide: records as a rollout writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from provision.core.models.records import PhaseResult
from provision.core.run_folder import RunFolder
from provision.features.rollout.model import Decision, HostProgress, Rollout, RolloutHost, RolloutState
from provision.features.rollout.store import RolloutStore
from tests.report.page.fleets import DONE_AT, Fleet, end, gpu_checks, served
from tests.report.sample import GPU_STACK, STARTED, document, facts, host, result

RUNS = ("20261120T100200Z", "20261120T100700Z", "20261120T101500Z")
HOSTS = ("gpu-1", "gpu-2", "gpu-3", "gpu-4")
OLD, NEW = "459991666c6a17ff", "f46e4309bd2ccdbd"
STEPS = (25, 50, 100)
COMMAND = "rollout -i inventory/mysite --vllm 0.26.0 --steps 25,50,100"


def _decision(step: int, requests: int, failed: int = 0) -> Decision:
    counted = f"{failed} of {requests} requests failed"
    is_last = step == len(STEPS) - 1  # no host of the old release is left to compare with
    old_first, old_inter = ({}, {}) if is_last else ({"old": 0.0312}, {"old": 0.0111})
    return Decision(
        step=step,
        at=STARTED,
        verdict="roll back" if failed else "go on",
        text=f"{counted}; a healthy release fails at most 0.1%" if failed else counted,
        requests=requests,
        failed=failed,
        first_token_s={"new": 0.0301 + 0.0004 * step, **old_first},
        inter_token_s={"new": 0.0109, **old_inter},
        answers=0 if is_last else 8,
        run=RUNS[step],
    )


def finished(folder: Path) -> RunFolder:
    """Return the last run of a rollout after which four hosts serve the new release."""
    changed = HOSTS[2:]
    fleet = _run(folder / RUNS[2], changed)
    for index, name in enumerate(changed, 2):
        fleet.run.write(f"facts/{name}.json", facts(name, gpus=8))
        fleet.run.write(f"verify/{name}.json", document(gpu_checks(index)))
        fleet.run.write(f"serve/{name}.json", served(name, index))
    _end(fleet, [result(name, phase) for name in changed for phase in DONE_AT])
    decisions = (_decision(0, 1512), _decision(1, 3874), _decision(2, 4096))
    states: dict[str, HostProgress] = dict.fromkeys(HOSTS, "updated")
    return _recorded(folder, fleet, states, *decisions, state="done", text="4 hosts serve the new release")


def returned(folder: Path) -> RunFolder:
    """Return the run whose gate sent two hosts back to the old release."""
    changed = HOSTS[:2]
    fleet = _run(folder / RUNS[1], changed)
    bad = _decision(1, 1240, failed=11)
    watched = [
        result(name, "serve", "warn", changed=False, text=f"the gate says `roll back`: {bad.text}") for name in changed
    ]
    for index, name in enumerate(changed):
        fleet.run.write(f"facts/{name}.json", facts(name, gpus=8))
        fleet.run.write(f"verify/{name}.json", document(gpu_checks(index)))
        fleet.run.write(f"serve/{name}.json", served(name, index))
    _end(fleet, [*(result(name, "probe") for name in changed), *watched])
    states: dict[str, HostProgress] = {**dict.fromkeys(changed, "returned"), **dict.fromkeys(HOSTS[2:], "waiting")}
    return _recorded(folder, fleet, states, _decision(0, 1512), bad, state="rolled back", text=bad.text)


def _run(folder: Path, names: Sequence[str]) -> Fleet:
    fleet = Fleet(folder, [host(name) for name in names])
    header = {"run": folder.name, "command": COMMAND, "started_at": STARTED, "pid": 4194304, "seconds": 94.2}
    fleet.run.write("run.json", {**header, "invocation": {"inventory": "inventory/mysite"}})
    fleet.planned(names, GPU_STACK)
    fleet.staged(names, GPU_STACK)
    return fleet


def _end(fleet: Fleet, results: list[PhaseResult]) -> None:
    fleet.results(*results)
    fleet.events(results, DONE_AT)
    end(fleet.run)


def _recorded(
    logs: Path,
    fleet: Fleet,
    states: dict[str, HostProgress],
    *decisions: Decision,
    state: RolloutState,
    text: str,
) -> RunFolder:
    hosts = tuple(
        RolloutHost(
            name=name,
            step=min(index, 2),
            before=OLD,
            after=None if states[name] == "waiting" else NEW,
            state=states[name],
        )
        for index, name in enumerate(HOSTS)
    )
    RolloutStore(logs).put(
        Rollout(
            name=RUNS[0],
            inventory="/site/inventory/mysite",
            steps=STEPS,
            started_at=STARTED,
            state=state,
            text=text,
            hosts=hosts,
            decisions=decisions,
            runs=RUNS,
        )
    )
    return fleet.run
