"""What a person reads of a rollout."""

import json

from provision.features.rollout.model import OPEN, Rollout, RolloutHost
from provision.features.rollout.steps import STAGING
from provision.pipeline import CommandRequest
from provision.pipeline.commands import write_stdout
from provision.report.layout import count

ABORTED = "aborted"
"""The text of a rollout that a person took back."""


def print_rollout(request: CommandRequest, rollout: Rollout, text: str | None = None) -> None:
    """Print a rollout: as JSON, or the text; without one, it is described as this process leaves it."""
    if request.as_json:
        write_stdout(json.dumps(rollout.model_dump(mode="json"), indent=2))
    else:
        write_stdout(text or "\n".join(described(rollout, driven=False)))


def described(rollout: Rollout, *, driven: bool) -> list[str]:
    """Return the lines that tell a person where a rollout is."""
    stopped = " (no process drives it)" if rollout.state in ("running", "returning") and not driven else ""
    back = len(rollout.taken_back())
    were = "was" if back == 1 else "were"
    since = f"{back} of {count(len(rollout.hosts), 'host')} {were} taken back since, by ./firstlight rollback"
    text = "; ".join(filter(None, (rollout.text, since if back else None)))
    lines = [f"rollout {rollout.name}: {rollout.state}{stopped}" + (f": {text}" if text else "")]
    for index, percent in enumerate(rollout.steps):
        hosts = rollout.of_step(index)
        name = f"{percent} %" if percent else STAGING
        lines += [f"  {name:>8}  {host.name}  {_state_of(host, is_open=rollout.state in OPEN)}" for host in hosts]
        # A step that only changes the share has no host.
        label = "" if hosts else name
        lines += [f"  {label:>8}  gate: {one.verdict}: {one.text}" for one in rollout.decisions if one.step == index]
    return [*lines, *_next(rollout, stopped=bool(stopped))]


def _next(rollout: Rollout, *, stopped: bool) -> list[str]:
    """Return what to do next: go on or back, or see why it was taken back."""
    if rollout.state == "paused" or stopped:
        return [f"next: {rollout.suggest('resume')}, or {rollout.suggest('abort')}"]
    # A host that failed by itself, else one that the gate's decision was about.
    names = [one.name for state in ("failed", "returned") for one in rollout.hosts if one.state == state]
    if rollout.state not in ("rolled back", "failed") or rollout.text == ABORTED or not names:
        return []
    typed, lines = rollout.typed, []
    for host in [host for host in rollout.hosts if host.state == "failed"]:  # that the rollout could not take back
        back = typed.suggest("provision", hosts=host.name)
        if host.before is not None:
            back = f"{typed.suggest('rollback', hosts=host.name)} --to {host.before}"
        lines.append(f"left: {back}  # when {host.name} answers; it gets no requests until then")
    return [
        *lines,
        f"next: {typed.suggest('doctor', hosts=names[0])}  # shows why",
        f"then: {typed.on_inventory('rollout')}  # with another release, or after a repair",
    ]


def _state_of(host: RolloutHost, *, is_open: bool) -> str:
    if host.state == "updated":
        return f"serves release {host.after}, before it {host.before or 'none'}"
    if host.returned_to is not None:
        return f"served release {host.after}, taken back to release {host.returned_to} by run {host.run}"
    if host.state == "returned":
        return f"went back to release {host.before}"
    if host.state == "waiting":
        return f"{'not changed yet' if is_open else 'not changed'}: release {host.before or 'none'}"
    return f"{host.state}, release before: {host.before or 'none'}"
