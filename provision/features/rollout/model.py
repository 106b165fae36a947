"""Records of a rollout: its hosts in steps, and every decision with its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal

from pydantic import ConfigDict, Field

from provision.core.environment_folders import digest_of
from provision.core.models.base import Record
from provision.core.models.invocation import ROOT, Invocation

HostProgress = Literal["waiting", "changing", "updated", "failed", "returned", "quarantined"]
"""Changing: between the hook before the host and the hook after it. Quarantined: left out, as its hardware failed a check."""
RolloutState = Literal["running", "paused", "done", "returning", "rolled back", "failed"]
"""Failed: a host neither serves the new release nor went back to its old one."""
OPEN: tuple[RolloutState, ...] = ("running", "paused", "returning")
"""States in which a rollout has work left."""


class RolloutHost(Record):
    """A host that changes in a rollout."""

    name: str
    step: int
    """Index of the step that changes it."""
    before: str | None = None
    """Digest of the release that it served before; None where it served none."""
    content_before: str | None = None
    """What that release has in common with those of other hosts, see `content_of`; None where that is not known."""
    content: str | None = None
    """The same of the release that the rollout was begun with."""
    after: str | None = None
    """Digest of the release that it serves since its step."""
    state: HostProgress = "waiting"
    returned_to: str | None = None
    """Digest of the release that `./firstlight rollback` has given it since; None where that has not taken it back."""
    run: str | None = None
    """The run that changed it last."""


class Decision(Record):
    """What the gate after a step decided."""

    step: int
    at: str
    verdict: Literal["go on", "roll back", "undecided"]
    text: str
    requests: int = 0
    failed: int = 0
    """Of these requests."""
    broken: int = 0
    """Of these: answers that broke off, or never began, as gateways saw it."""
    inter_token_s: dict[str, float] = Field(default_factory=dict)
    """Median seconds between two tokens: `new`, and `old` where a host still serves the old release."""
    first_token_s: dict[str, float] = Field(default_factory=dict)
    """Median seconds to the first token: `new`, and `old` where a host still serves the old release."""
    answers: int = 0
    """Greedy answers that were compared with those of the old release."""
    differing: int = 0
    """Of these: by more than rounding explains."""
    left_out: int = 0
    """Texts whose answers were not compared, since one of the two releases has not answered; `text` has a reason."""
    run: str | None = None


class RolloutOptions(Record):
    """What a rollout is begun with."""

    min_serving: int = 0
    hold_s: float = 0.0
    """Seconds that each step lasts at least."""
    holds_s: dict[int, float] = Field(default_factory=dict)
    """The same for single steps, by their percentage."""
    before_host: str | None = None
    after_host: str | None = None
    folder: str | None = None
    """Folder in which both commands start: where the rollout was started, also when it is resumed elsewhere."""


class Rollout(RolloutOptions):
    """One rollout, as it is on disk after every transition."""

    model_config = ConfigDict(extra="ignore")  # earlier releases kept more

    schema_version: Literal[1] = 1
    name: str
    inventory: str
    limit: str | None = None
    """Hosts or groups of the inventory that it is for; None for all."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of the command line, by their names."""
    become: bool = False
    """Whether it was begun with `-K`."""
    steps: tuple[int, ...]
    """Percent of the hosts that serve the new release after each step; 0 for the step of group `staging`."""
    started_at: str
    state: RolloutState = "running"
    text: str | None = None
    """Why it is in this state."""
    hosts: tuple[RolloutHost, ...]
    decisions: tuple[Decision, ...] = ()
    runs: tuple[str, ...] = ()
    """All runs of it so far, in order; the first has its name."""

    @property
    def typed(self) -> Invocation:
        """Return what suggested commands repeat."""
        return Invocation(inventory=self.inventory, options={ROOT: None} if self.become else {})

    def suggest(self, command: str) -> str:
        """Return a command on the open rollout, such as `resume`, which takes the inventory from its record."""
        return self.typed.on_record("rollout", command)

    def host(self, name: str) -> RolloutHost:
        """Return a host by its name."""
        return next(host for host in self.hosts if host.name == name)

    def taken_back(self) -> list[RolloutHost]:
        """Return the hosts that `./firstlight rollback` has taken back."""
        return [host for host in self.hosts if host.returned_to is not None]

    def of_step(self, step: int) -> list[RolloutHost]:
        """Return the hosts of a step."""
        return [host for host in self.hosts if host.step == step]

    def with_host(self, name: str, **values: Any) -> Rollout:
        """Return the rollout with other values of one host."""
        hosts = tuple(host.model_copy(update=values) if host.name == name else host for host in self.hosts)
        return self.model_copy(update={"hosts": hosts})


def content_of(state: Mapping[str, Any] | None) -> str | None:
    """Return environment, model and attention of a release from its state on the host; None where it names no environment.

    Digests of releases are not equal where one names its host, such as its place in a span or the UUIDs of its GPUs.
    """
    state = state or {}
    if not state.get("environment"):
        return None
    attention = (state.get("stack") or {}).get("attention") or {}
    return " ".join(map(str, (digest_of(state["environment"]), state.get("model"), attention.get("backend"))))


def compared_hosts(new: Sequence[RolloutHost], waiting: Sequence[RolloutHost]) -> tuple[str | None, list[str]]:
    """Return the waiting host that the new release is compared with, and the changed hosts whose times are compared with its times.

    These had the same release before, or, where no pair had, the same environment, model and attention.
    """
    for same in (attrgetter("before"), attrgetter("content_before")):
        for old in waiting:
            alike = [one.name for one in new if same(old) is not None and same(one) == same(old)]
            if alike:
                return old.name, alike
    return next((old.name for old in waiting), None), []


def with_releases(rollout: Rollout, releases: Mapping[str, str | None], run: str) -> Rollout:
    """Return the rollout with hosts marked that a run of `rollback` took away from the release that the rollout gave them, or back to it.

    A host that the rollout could not take back is marked when it has its earlier release.

    Args:
        releases: Digest of the release that each host serves since the run; None where it is not known.
    """
    for host in rollout.hosts:
        release = releases.get(host.name)
        is_followed = host.state == "updated" or host.returned_to is not None
        is_back = host.state == "failed" and release == host.before
        if release is None or release == (host.returned_to or host.after) or not (is_followed or is_back):
            continue
        if release == host.after:
            rollout = rollout.with_host(host.name, state="updated", returned_to=None, run=run)
        else:
            rollout = rollout.with_host(host.name, state="returned", returned_to=release, run=run)
    return rollout
