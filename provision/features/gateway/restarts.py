"""Restarts behind gateways: in which order, and how requests are kept away from hosts meanwhile."""

import time
from collections.abc import Collection, Iterable, Sequence

from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.features.gateway.draining import NO_ROLLOUT, ask, bring_back, by_operator, left_shares, wait_until_empty
from provision.features.gateway.traffic import Traffic, models_of, sessions_of, waves
from provision.run.context import RunContext
from provision.run.desired_state import Desired

UP_DEADLINE_S = 90.0
"""Seconds in which gateways notice that a host answers: they ask twice a second, and for a token every two seconds."""
POLL_S = 0.5


def moves(desired: Desired, facts: HostFacts) -> bool:
    """Return whether what a host serves gets another name or address, or its first API key, so that a gateway has to be set up again."""
    state = (facts.installed.state if facts.installed else None) or {}
    before, after = state.get("readiness") or {}, desired.state["readiness"] or {}
    has_new_key = before.get("api_key", True) < after.get("api_key", True)
    return has_new_key or any(before.get(key) != after.get(key) for key in ("served_name", "host", "port"))


class Restarts:
    """The restarts of one run, and the gateways that pass requests to its hosts.

    Hosts of `still` are asked to start, and will not restart; those of `moving` are not found by gateways until these are set up again.
    """

    def __init__(self, context: RunContext, *, still: Collection[str] = (), moving: Collection[str] = ()) -> None:
        self._context = context
        gateways = context.options.find_gateways()
        answers = ask(context, gateways)
        for name, error in answers.silent.items():
            context.run.event("gateway-silent", host=name, phase="serve", text=str(error))
        self._gateways = [host for host in gateways if host.name in answers.traffics]
        self._traffics: Sequence[Traffic] = tuple(answers.traffics.values())
        self._left = left_shares(context, self._traffics)
        """Shares that no open rollout has."""
        self._drained: set[str] = set()
        self._broken: dict[str, str] = {}
        """By model: the host that did not come back with its new release."""
        self._together = frozenset((*still, *moving))
        self._notes = {
            name: "clients got errors until the gateway was set up again: its model, its address or its API key changed"
            for name in moving
            if self._models(name)
        }

    def turns(self, wave: Sequence[Host]) -> list[list[Host]]:
        """Return hosts that restart together, in order: at least one list, and with no gateway only one."""
        at_once = min((host.settings.gateway_restart_at_once for host in self._gateways), default=1)
        heads = [host.name for host in wave if host.name == host.head]
        found = waves([name for name in heads if name not in self._together], self._traffics, at_once)
        found[0] += [name for name in heads if name in self._together]
        return [[host for host in wave if host.head in names] for names in found if names] or [[]]

    def before(self, hosts: Sequence[Host]) -> list[Host]:
        """Keep requests away from hosts, and wait for those that run; return the hosts that may restart.

        When the run is interrupted, which is raised again, these hosts take requests again.
        """
        allowed = [host for host in hosts if not self._is_spared(host)]
        names = [host.name for host in allowed if self._models(host.name) and host.name not in self._together]
        if not names:
            return allowed
        now = ask(self._context, self._gateways)
        alone = {name: model for name in names if (model := self._only_model(name, names, now.traffics.values()))}
        for name, model in alone.items():
            self._notes[name] = f"clients of `{model}` got errors during the restart: no other host serves it"
        if not (moved := [name for name in names if name not in alone]):
            return allowed
        self._drained |= set(moved)
        limit_s = max(host.settings.gateway_drain_seconds for host in self._gateways)
        try:
            done = ask(self._context, self._gateways, drain=moved, by="run")
            for gateway, error in done.errors.items():
                self._context.run.event("gateway-silent", host=gateway, phase="serve", text=str(error))
                self._notes |= dict.fromkeys(moved, f"gateway `{gateway}` could not drain it: its clients got errors")
            for name in moved:
                self._context.progress.note(name, "drained at the gateway: waits until its requests have ended")
            last = wait_until_empty(self._context, self._gateways, moved, limit_s)
        except KeyboardInterrupt:
            ask(self._context, self._gateways, ready=moved, by="run")
            raise
        for name, left in sessions_of(last.traffics.values(), moved).items():
            self._context.run.event("drained", host=name, phase="serve", left=left)
            if left:
                self._notes[name] = f"requests that did not end within {limit_s:g} s and were cut off: {left}"
        return allowed

    def after(self, hosts: Sequence[Host], *, serving: Collection[str], proven: Collection[str]) -> None:
        """Let hosts take requests again that serve, be it with the release before, and wait until gateways see it; say what happened to requests."""
        del proven
        names = [host.name for host in hosts]
        drained = self._drained.union(*(traffic.drained() for traffic in self._traffics))
        back = [name for name in names if name in serving and name in drained]
        ended = [name for name in names if name in serving and name in self._left]
        bring_back(self._context, self._gateways, self._left, drained=back, ended=ended)
        self._left = {name: share for name, share in self._left.items() if name not in ended}
        waiting = {*back, *ended}
        deadline = time.monotonic() + UP_DEADLINE_S
        while waiting and time.monotonic() < deadline:
            traffics = ask(self._context, self._gateways).traffics.values()
            waiting = {name for name in waiting if any((one := t.of(name)) and one.state == "down" for t in traffics)}
            time.sleep(POLL_S if waiting else 0)
        for name in names:
            if name in self._drained and name not in serving:
                ready = f"./firstlight gateway ready {name}"
                text = f"it stays drained at the gateway until a run has verified it, or {ready}"
            elif name in waiting:
                text = f"the gateway has not seen it answer within {UP_DEADLINE_S:g} s"
            else:
                kept = by_operator(self._traffics, name)
                text = self._notes.get(name) or kept or (NO_ROLLOUT if name in ended else "")
            if text:
                self._context.add_note(name, text)
            if name in self._drained and (self._context.has_failed(name) or name in waiting):
                self._broken |= dict.fromkeys(self._models(name), name)

    def _models(self, name: str) -> set[str]:
        """Return the models for which a host got requests when the run began to restart."""
        return models_of(self._traffics, name)

    def _only_model(self, name: str, leaving: Sequence[str], now: Iterable[Traffic]) -> str | None:
        """Return a model that would be left without a host by the hosts that leave together."""
        serving = ((model, traffic.in_traffic(model)) for traffic in now for model in self._models(name))
        return next((model for model, hosts in serving if name in hosts and hosts <= set(leaving)), None)

    def _is_spared(self, host: Host) -> bool:
        """Record a host that stays as it is since another host of its model did not come back; return whether it is one."""
        broken = next((self._broken[model] for model in sorted(self._models(host.head)) if model in self._broken), None)
        if broken is None:
            return False
        text = f"serves as before, and was not restarted: `{broken}` did not serve again with its new release"
        self._context.record(PhaseResult(host=host.name, phase="serve", status="skipped", text=text))
        return True
