"""The process that drives a rollout: it keeps the record on disk ahead of what it does to hosts, and sets the shares of requests at gateways."""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from provision.core.errors import Exit, FirstlightError, InventoryError
from provision.core.models.inventory import GATEWAY, MONITORING, Inventory
from provision.core.models.records import HostSummary
from provision.core.process import run_program
from provision.core.redaction import redact
from provision.core.run_folder import utc_now
from provision.features.gateway.draining import ask, record
from provision.features.gateway.traffic import Traffic
from provision.features.rollout.gate import Verdict, thresholds
from provision.features.rollout.measured import PAUSE_S, gate, was_unreachable
from provision.features.rollout.model import Decision, HostProgress, Rollout, compared_hosts, content_of
from provision.features.rollout.steps import STAGING, batches
from provision.features.rollout.store import RolloutStore
from provision.features.rollout.text import ABORTED, print_rollout
from provision.pipeline import CommandRequest
from provision.pipeline.phases import AFTER_SERVE, BEFORE_PLAN, FLEET, PROBE, STAGE, STEPS
from provision.pipeline.runner import RunOutcome, execute, hosts_of_group
from provision.report.layout import count
from provision.run.context import RunContext, left_out
from provision.run.results import AnsweredHosts, ProbedHosts, StagedHosts
from provision.run.rollback import roll_back
from provision.run.step import Step

ALL = 100
OTHER = (
    "another environment, model or attention than the rollout began with: the inventory or the host has changed since"
)
HOOK_S = 600.0
"""Seconds for a hook: draining waits for open streams."""
SWITCH = tuple(step for step in STEPS if step not in FLEET)
AFTER = tuple(step for step in AFTER_SERVE if step not in FLEET)


class StoppedError(FirstlightError):
    """The rollout cannot go on by itself, and nothing says that the release is bad."""


class RolloutDriver:
    """Drives one rollout; the caller has locked its store."""

    def __init__(self, request: CommandRequest, store: RolloutStore, rollout: Rollout, inventory: Inventory) -> None:
        self._request, self._store = request, store
        self.rollout = rollout
        self._hosts = {host.name: host for host in inventory.hosts}
        if gone := [host.name for host in rollout.hosts if host.name not in self._hosts]:
            raise InventoryError(
                f"the inventory has lost hosts of rollout {rollout.name}: {', '.join(gone)}",
                hint="put them back until the rollout is over",
            )
        serving = [host for host in inventory.hosts if host.is_serving]
        out = {host.head for host in serving if left_out(request.logs, host) is not None}
        self._serving = len({host.head for host in serving} - out)
        self._gateways = {host.name for host in hosts_of_group(request, inventory, GATEWAY)}
        self._monitors = hosts_of_group(request, inventory, MONITORING)

    def go_on(self) -> int:
        """Do what is left, and print how it ended."""
        if self.rollout.state == "returning":
            return self.take_back(self.rollout.text or "taken back")
        self._keep(state="running", text=None)
        through = {one.step for one in self.rollout.decisions if one.verdict == "go on"}
        try:
            for step, percent in enumerate(self.rollout.steps):
                # A step may change the share of requests although it changes no host; the last one ends it.
                is_draw = self._gateways and percent > 0 and self._in_state("updated")
                if step not in through and (self.rollout.of_step(step) or is_draw):
                    self._say(f"step {f'{percent} %' if percent else STAGING}")
                    reason = self._change(step) or (self._decide(step) if self._in_state("updated") else None)
                    reason = reason or self._wished()
                    if reason is not None:
                        return self.take_back(reason)
            has_rules = any(host.settings.firewall == "set" for host in self._hosts.values())
            if self._gateways or self._monitors or has_rules:
                self._refresh_fleet()
                # It lasts for minutes, in which this process still promises to do what a person asks.
                if (reason := self._wished()) is not None:
                    return self.take_back(reason)
            updated = len(self._in_state("updated"))
            serve = "serves" if updated == 1 else "serve"
            self._keep(state="done", text=f"{count(updated, 'host')} {serve} the new release")
        except StoppedError as stop:
            if self._store.take_wish() == "abort":
                return self.take_back(ABORTED)
            self._keep(state="paused", text=stop.text)
        except KeyboardInterrupt:
            self._keep(state="paused", text="interrupted")
            self._end()
            return Exit.INTERRUPTED
        return self._end()

    def _change(self, step: int) -> str | None:
        """Switch the hosts of a step; return why all has to go back, None where nothing speaks against it.

        At the gateways its hosts are canaries before they serve the new release, and get their share when all of them do. In the
        last step there are none: nobody would be left for the other requests.
        """
        names = self._whole(host.name for host in self.rollout.of_step(step) if host.state in ("waiting", "changing"))
        percent = self.rollout.steps[step]
        if percent == ALL:
            self._share([])
        elif names:
            before = self.rollout.steps[step - 1] if step else 0
            self._share(self._answering(), joining=self._heads(names), percent=before)
        reason = self._switch(names)
        if reason is None and percent < ALL:
            self._share(self._answering(), percent=percent)
        return reason

    def _whole(self, names: Iterable[str]) -> list[str]:
        """Return hosts of the rollout with all that serve one model with one of them: they change and return together."""
        heads = {self._hosts[name].head for name in names}
        return [host.name for host in self.rollout.hosts if self._hosts[host.name].head in heads]

    def _heads(self, names: Iterable[str]) -> list[str]:
        """Return the hosts that answer requests."""
        return [name for name in names if self._hosts[name].head == name]

    def _answering(self) -> list[str]:
        """Return the hosts that answer requests with the new release."""
        return self._heads(self._in_state("updated"))

    def _touched(self) -> list[str]:
        return self._in_state("changing", "updated", "failed")

    def _in_state(self, *states: HostProgress) -> list[str]:
        return [host.name for host in self.rollout.hosts if host.state in states]

    def _share(
        self, names: Sequence[str], *, joining: Sequence[str] = (), percent: int = 0, out: Sequence[str] = ()
    ) -> None:
        """Let the gateways give hosts a share of requests, see `set_shares`. Raises StoppedError where one does not."""
        if not self._gateways:
            return
        shared = partial(set_shares, names=names, joining=joining, percent=percent, out=out)
        outcome = self._execute(GATEWAY, (Step("canary", shared, "serve", "all"),))
        error = outcome.result.answer if isinstance(outcome.result, AnsweredHosts) else "no gateway can be queried"
        if error:
            raise StoppedError(f"the share of the new release is not known to every gateway: {error}")
        if names:
            self._say(f"gateways: at most {percent} % of requests to {', '.join(names)}")

    def _switch(self, names: Sequence[str]) -> str | None:
        """Switch hosts; return why all has to go back, None where nothing speaks against it."""
        for heads in batches(self._heads(names), serving=self._serving, min_serving=self.rollout.min_serving):
            batch = self._whole(heads)
            if aborted := self._wished():
                return aborted
            others: list[str] = []
            check = Step("release", partial(self._keep_from_others, found=others), "stage", in_batches=True)
            place = SWITCH.index(STAGE) + 1
            steps = (*SWITCH[:place], check, *SWITCH[place:])
            outcome = self._between_hooks(batch, partial(self._execute, ",".join(batch), steps))
            away = self._unreachable(outcome, batch)
            left = {*away, *others}
            bad = [self._switched(self._summary(outcome, name), outcome) for name in batch if name not in left]
            if any(bad):
                return next(filter(None, bad))
            if others:
                raise StoppedError(f"{', '.join(others)} would get {OTHER}")
            if away:
                raise StoppedError(f"{', '.join(away)} cannot be reached, which says nothing about the release")
        return None

    def _keep_from_others(self, context: RunContext, staged: StagedHosts, *, found: list[str]) -> StagedHosts:
        """Fail hosts before they get another release than the rollout began with, which no gate has seen; add them to `found`."""
        planned = {name: content_of(desired.state) for name, desired in staged.desired.items()}
        names = [host.name for host in context.hosts() if host.name in planned]
        begun = {name: self.rollout.host(name).content for name in names}
        found += self._whole(name for name in names if begun[name] is not None and planned[name] != begun[name])
        for name in found:
            hint = f"undo that change, and continue: {self.rollout.suggest('resume')}; or go back: {self.rollout.suggest('abort')}"
            context.fail(name, "stage", InventoryError(f"host `{name}` would get {OTHER}", hint=hint))
        return staged

    def _wished(self) -> str | None:
        """Return why all has to go back where a person has asked for that. Raises StoppedError where one has asked for a pause."""
        wish = self._store.take_wish()
        if wish == "pause":
            raise StoppedError("a pause was requested")
        return ABORTED if wish == "abort" else None

    def _switched(self, host: HostSummary, outcome: RunOutcome) -> str | None:
        """Keep what became of a host; return why it failed."""
        failed = _failure(host)
        if host.state == "quarantined":
            self._keep_host(host.name, state="quarantined", run=outcome.summary.run)
            self._say(f"{host.name}: left out, {host.phases['plan'].text}")
            return None
        if failed is None:
            desired = outcome.result.desired if isinstance(outcome.result, StagedHosts) else {}
            release = host.release or (desired[host.name].state["release"] if host.name in desired else None)
            self._keep_host(host.name, state="updated", after=release, run=outcome.summary.run)
            self._say(f"{host.name}: serves release {release}")
            return None
        self._keep_host(host.name, state="failed", run=outcome.summary.run)
        return f"{host.name}: {failed}"

    def _decide(self, step: int) -> str | None:
        """Ask the gate; return why all has to go back, None where the next step may begin."""
        new = self._answering()
        waiting = [host.name for host in self.rollout.hosts if host.state == "waiting" and host.before is not None]
        of_both = ([self.rollout.host(name) for name in names] for names in (new, self._heads(waiting)))
        old, alike = compared_hosts(*of_both)
        has_changed = bool(self.rollout.of_step(step))
        hold_s = self.rollout.holds_s.get(self.rollout.steps[step], self.rollout.hold_s)
        compared = partial(gate, new=new, old=old, alike=alike, has_changed=has_changed)
        observe = Step(
            "gate", partial(compared, step=step, hold_s=hold_s, is_interrupted=self._store.has_wish), "serve"
        )
        deadline = time.monotonic() + thresholds()["blind"]["patience_s"]
        while True:
            outcome = self._execute(",".join(filter(None, (*new, old))), (PROBE, observe))
            away = self._unreachable(outcome, new)
            if not away or time.monotonic() >= deadline:
                break
            self._say(f"the step holds: {', '.join(away)} cannot be reached")
            time.sleep(PAUSE_S)
        if not away and isinstance(outcome.result, AnsweredHosts):
            decision: Decision = outcome.result.answer.model_copy(update={"run": outcome.summary.run})
        else:
            broken = "; ".join(f"{host.name}: {text}" for host in outcome.summary.hosts if (text := _failure(host)))
            text = f"holds: {', '.join(away)} cannot be reached" if away else broken or "no host could be observed"
            verdict: Verdict = "undecided" if away else "roll back"
            decision = Decision(step=step, at=utc_now(), verdict=verdict, text=text, run=outcome.summary.run)
        self._keep(decisions=(*self.rollout.decisions, decision))
        self._say(f"gate: {decision.verdict}: {decision.text}")
        if decision.verdict == "undecided":
            if aborted := self._wished():
                return aborted
            raise StoppedError(decision.text)
        return None if decision.verdict == "go on" else decision.text

    def take_back(self, reason: str, *, wanted: bool = False) -> int:
        """Return all changed hosts to the releases that they served before, and print how that ended; where that was wanted, it is no failure."""
        self._keep(state="returning", text=reason)
        self._say(f"going back: {reason}")
        touched = [self.rollout.host(name) for name in self._whole(self._touched())]
        try:
            try:
                self._share(self._heads(self._touched()))
            except StoppedError as stop:
                self._say(stop.text)  # the hosts go back all the same
            # Hosts that served nothing before the rollout have nothing to return to.
            before = {host.name: host.before for host in touched if host.before is not None}
            if before:
                back = Step("rollback", partial(roll_back, to=before), "serve")
                outcome = self._between_hooks([*before], partial(self._execute, ",".join(before), (PROBE, back)))
                faults = {name: _failure(self._summary(outcome, name)) for name in before}
                for name, fault in faults.items():
                    self._keep_host(name, state="failed" if fault else "returned", run=outcome.summary.run)
                    self._say(f"{name}: {fault or f'serves release {before[name]} again'}")
                # Watchdogs follow the hosts that are back, and say nothing about their releases.
                if whole := ",".join(name for name in before if not faults[name]):
                    for host in filter(_failure, self._execute(whole, (PROBE, *AFTER)).summary.hosts):
                        self._say(f"{host.name}: {_failure(host)}")
            # A rollout that ends leaves no share behind.
            self._share([], out=self._heads(self._touched()))
        except StoppedError as stop:
            self._say(stop.text)
            return self._end()
        except KeyboardInterrupt:
            self._end()
            return Exit.INTERRUPTED
        left = self._touched()
        text = f"{reason}; not on the release of before: {', '.join(left)}" if left else reason
        self._keep(state="failed" if left else "rolled back", text=text)
        code = self._end()
        return Exit.OK if wanted and not left else code

    def _execute(self, limit: str | None, steps: Sequence[Step]) -> RunOutcome:
        """Make one run, and keep its name. After an interruption, which is raised again, hosts are still at work: the record keeps them so."""
        outcome = execute(replace(self._request, limit=limit), steps)
        self._keep(runs=(*self.rollout.runs, outcome.summary.run))
        if outcome.exit_code == Exit.INTERRUPTED:
            raise KeyboardInterrupt
        return outcome

    def _summary(self, outcome: RunOutcome, name: str) -> HostSummary:
        return next(host for host in outcome.summary.hosts if host.name == name)

    def _unreachable(self, outcome: RunOutcome, names: Sequence[str]) -> list[str]:
        return [name for name in names if was_unreachable(self._summary(outcome, name).phases.values())]

    def _between_hooks(self, names: Sequence[str], work: Callable[[], RunOutcome]) -> RunOutcome:
        """Take hosts out of traffic, do the work, and bring them back, whatever became of it."""
        with ExitStack[None]() as after:  # a hook that fails keeps none of the others from running
            for name in names:
                after.callback(self._hook, self.rollout.after_host, name, "after")
                self._hook(self.rollout.before_host, name, "before")
            if self.rollout.state == "running":
                for name in names:
                    self._keep_host(name, state="changing")
            return work()

    def _hook(self, command: str | None, name: str, when: str) -> None:
        """Run a hook on this machine. Raises StoppedError where it fails."""
        if command is None:
            return
        env = {
            **os.environ,
            "FIRSTLIGHT_HOST": name,
            "FIRSTLIGHT_ADDRESS": self._hosts[name].connection.address or name,
            "FIRSTLIGHT_ROLLOUT": self.rollout.name,
        }
        stopped = StoppedError(f"the hook {when} host `{name}` did not end within {HOOK_S:g} s: {command}")
        started_in = Path(self.rollout.folder or ".")
        cwd = started_in if started_in.is_dir() else None
        done = run_program(["sh", "-c", command], stopped, timeout_s=HOOK_S, env=env, cwd=cwd)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
            raise StoppedError(f"the hook {when} host `{name}` ended with {done.returncode}: {last}")

    def _refresh_fleet(self) -> None:
        """Let what stands around the hosts know what they serve now. Raises StoppedError where a gateway, or a host of the rollout, failed."""
        outcome = self._execute(None, (*BEFORE_PLAN, *FLEET))
        failed = {host.name: f"{host.name}: {text}" for host in outcome.summary.hosts if (text := _failure(host))}
        needed = {*self._in_state("updated"), *self._gateways}
        if stopping := [text for name, text in failed.items() if name in needed]:
            raise StoppedError(f"all hosts serve the new release, and not all was set up for it: {'; '.join(stopping)}")
        for text in failed.values():
            self._say(text)

    def _keep(self, **values: object) -> None:
        self.rollout = self.rollout.model_copy(update=values)
        self._store.put(self.rollout)

    def _keep_host(self, name: str, **values: object) -> None:
        self.rollout = self.rollout.with_host(name, **values)
        self._store.put(self.rollout)

    def _say(self, text: str) -> None:
        sys.stderr.write(redact(text) + "\n")
        sys.stderr.flush()

    def _end(self) -> int:
        """Print the rollout, and return the exit code of its state."""
        print_rollout(self._request, self.rollout)
        return Exit.OK if self.rollout.state == "done" else Exit.RED


def _failure(host: HostSummary) -> str | None:
    """Return why a host failed in a run; None where it did not."""
    bad = [result for result in host.phases.values() if result.has_failed]
    return (bad[0].text or bad[0].status) if bad else None


def shares(traffics: Iterable[Traffic], names: Sequence[str], joining: Sequence[str], percent: float) -> dict[str, int]:
    """Return the share of each canary in ten-thousandths of its model's requests; it is 0 of hosts that are about to join.

    Hosts of one model get equal parts of the percentage, but none gets more than an equal part of all requests, which may be more than it
    can serve. Gateways may have different hosts in traffic; the smallest share counts. A model without another host in traffic has no
    canaries: somebody has to take the other requests.
    """
    found: dict[str, int] = {}
    canaries = {*names, *joining}
    for traffic in traffics:
        others = {one.model: len(traffic.in_traffic(one.model) - canaries) for one in traffic.hosts}
        ours = [one for one in traffic.hosts if one.host in canaries and others[one.model]]
        counts = Counter(one.model for one in ours if one.host in names)
        most = {model: ALL / (number + others[model]) for model, number in counts.items()}
        for one in ours:
            share = round(min(percent / counts[one.model], most[one.model]) * 100) if one.host in names else 0
            found[one.host] = min(share, found.get(one.host, share))
    return found


def set_shares(
    context: RunContext,
    probed: ProbedHosts,
    *,
    names: Sequence[str],
    joining: Sequence[str],
    percent: float,
    out: Sequence[str] = (),
) -> AnsweredHosts[str]:
    """Make hosts the canaries of all gateways, and no others; without names there are none any more. Return why a gateway does not have the shares.

    Hosts in `out` get no requests until a run has proven them, as long as their model has others.
    """
    gateways, text = context.hosts(), ""
    answers = ask(context, gateways)
    if not answers.errors:
        wanted = shares(answers.traffics.values(), names, joining, percent)
        drained = [*shares(answers.traffics.values(), [], out, 0)]
        answers = ask(context, gateways, drain=drained, by="run", canary=wanted)
        context.run.event("canary", shares=wanted)
        given = [f"{share / 100:g} % of requests to {host}" for host, share in wanted.items()]
        given += [f"no requests to {name} until a run has verified it" for name in drained]
        text = ", ".join(given) or "no host has a share of its own"
    record(context, answers, changed=True, text=text)
    return AnsweredHosts(**vars(probed), answer="; ".join(map(str, answers.errors.values())))
