"""The gate of a rollout: hosts are observed until a statistical test has decided."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import PurePosixPath
from typing import Any

from provision.core.errors import TransportError
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.core.run_folder import utc_now
from provision.features.gateway.draining import ask
from provision.features.rollout.gate import Comparison, Measure, Observed, Verdict, decide, failed_requests, thresholds
from provision.features.rollout.model import Decision
from provision.phases.serve.readiness import sample
from provision.run.context import RunContext
from provision.run.results import AnsweredHosts, ProbedHosts
from provision.run.rollback import live_states, readiness_of

SAMPLE_DEADLINE_S = 600.0
PAUSE_S = 5.0
"""Seconds between two rounds while a step is held longer than its first test needs; they send few requests."""


def gate(
    context: RunContext,
    probed: ProbedHosts,
    *,
    new: Sequence[str],
    old: str | None,
    alike: Sequence[str],
    step: int,
    hold_s: float,
    has_changed: bool = True,
    is_interrupted: Callable[[], bool] = lambda: False,
) -> AnsweredHosts[Decision]:
    """Observe hosts of the new release and one of the old one, by synthetic requests, their own counters and those of gateways.

    Rounds are repeated until the test of failed requests decides, and `hold_s` seconds have passed; meanwhile the test begins
    anew each time that it was passed. Synthetic requests fill up where the traffic of clients is thin; those of clients
    are tested alone too, so that others do not hide their failures. Greedy answers of both releases are compared
    once where they serve the same model. While the counters of a host or
    a gateway cannot be read, the step holds: nothing is decided but a rollback, and in the end the decision stays open.

    Args:
        alike: Hosts of the new release that served a release like that of the old one before. Their times are compared, if they have the same GPUs and serve a model of the same name.
        hold_s: Seconds that the step lasts at least.
        has_changed: Whether the step changed a host. Else all answers were compared before, and that would only delay what is seen of clients.
        is_interrupted: Whether the step shall not be observed any longer; it is then undecided.
    """
    started = time.monotonic()
    watch = _Watch(context, probed, new, old, alike, has_changed=has_changed)
    verdict: Verdict
    passed: str | None = None
    blind_since: float | None = None
    wanted = thresholds()["sampling"]
    while True:
        lost = watch.round(wanted)
        if lost or is_interrupted():
            decision = _cut_short(context, step, lost)
            break
        verdict, text = decide(watch.window, watch.rounds, watch.clients)
        if watch.compared.is_bad and verdict != "roll back":
            verdict, text = "roll back", f"{text}; {watch.compared.text}"
        counts: dict[str, Any] = {"requests": watch.window.requests, "failed": watch.window.failed}
        context.run.event("observed", **counts, unread=watch.unread, verdict=verdict, text=text)
        if watch.unread and verdict != "roll back":
            passed, blind_since = None, blind_since or time.monotonic()
            if time.monotonic() - blind_since >= thresholds()["blind"]["patience_s"]:
                decision = watch.decision(step, "undecided", f"holds: cannot read {', '.join(watch.unread)}")
                break
            time.sleep(PAUSE_S)
            continue
        blind_since = None
        if verdict == "go on":
            # The test begins anew: what was good for an hour must not outweigh what is bad now.
            passed, wanted = text, wanted | {"requests": wanted["concurrent"]}
            watch.window, watch.rounds = Observed(), []
        if verdict == "roll back":
            decision = watch.decision(step, verdict, "; ".join([text, *watch.reasons[:1]]))
            break
        if passed is not None and time.monotonic() - started >= hold_s:
            decision = watch.decision(
                step, "go on", "; ".join(filter(None, [passed, watch.untimed, watch.compared.text]))
            )
            break
        if passed is not None:
            time.sleep(PAUSE_S)
    _record(context, new, decision)
    context.run.write("gate.json", decision)
    return AnsweredHosts(**vars(probed), answer=decision)


def _cut_short(context: RunContext, step: int, lost: Sequence[str]) -> Decision:
    """Return the decision where some hosts cannot be asked any more, or a person wants something else."""
    is_away = any(was_unreachable(context.outcomes.results.get(name, {}).values()) for name in lost)
    text = f"{', '.join(lost)} cannot be queried" if lost else "a person asked for something else"
    return Decision(step=step, at=utc_now(), verdict="roll back" if lost and not is_away else "undecided", text=text)


def _record(context: RunContext, new: Sequence[str], decision: Decision) -> None:
    """Let the summary say what was decided: a doubt about the new release is a warning of its hosts."""
    is_doubted = decision.verdict != "go on" or decision.differing > 0
    for host in context.hosts():
        is_new = host.name in new
        text = f"the gate says `{decision.verdict}`: {decision.text}" if is_new else "observed"
        context.record(
            PhaseResult(host=host.name, phase="serve", status="warn" if is_new and is_doubted else "ok", text=text)
        )


class _Watch:
    """What is seen of hosts, round by round."""

    def __init__(
        self,
        context: RunContext,
        probed: ProbedHosts,
        new: Sequence[str],
        old: str | None,
        alike: Sequence[str],
        *,
        has_changed: bool,
    ) -> None:
        self._context, self._probed, self._new = context, probed, new
        hosts = [host for host in context.hosts() if host.name in (*new, old)]
        self._requests = {
            name: request
            for name, state in live_states(context, probed, hosts).items()
            if (request := readiness_of(state)) is not None
        }
        self._old = old if old in self._requests else None
        self._timed: list[str] = []
        self._unanswered: set[str] = set()
        """Hosts of the new release whose answers are still to be compared."""
        if self._old is not None:
            here, device, model = self._requests.keys(), self._device(self._old), self._model(self._old)
            self._timed = [
                name
                for name in alike
                if name in here
                and self._device(name) == device
                and _without_digest(self._model(name)) == _without_digest(model)
            ]
            self._unanswered = {name for name in new if has_changed and name in here and self._model(name) == model}
        self._seen: dict[str, Observed] = {}
        self._counters: dict[str, dict[str, float]] = {}
        self._since: dict[str, float] = {}
        """Until when the log of each host was read, by its own clock."""
        self._gateways = GatewayFailures(context, new)
        self._answered_failed = self._missed = 0
        """Failed requests of clients that hosts counted, and those that only gateways saw."""
        self.compared = Comparison()
        """The answers of the new release and the old one."""
        self.window = Observed()
        """The new release since the test began."""
        self.rounds: list[tuple[Observed, Observed]] = []
        """What each round since then has shown of both releases."""
        self.clients = Observed()
        """Requests of clients alone, since they last passed the test."""
        self.reasons: list[str] = []
        self.unread: list[str] = []
        """What could not be read in the last round."""

    def round(self, wanted: Mapping[str, int]) -> list[str]:
        """Ask all hosts and gateways once; return hosts of the new release that this run cannot ask any more."""
        if failed_requests(self.clients.requests, self.clients.failed) == "go on":
            self.clients = Observed()
        replay = {"replay": thresholds()["answers"]["tokens"]} if self._unanswered else {}
        found, away = self._ask({**wanted, **replay})
        lost = [name for name in self._new if name not in found and name not in away]
        shown = {name: observed(answer, self._counters.get(name)) for name, answer in found.items()}
        for name, answer in found.items():
            self._since[name] = answer.get("until", 0.0)
            self._seen[name] = self._seen.get(name, Observed()).plus(shown[name])
            # What is counted while it cannot be read shows when it can be read again.
            self._counters[name] = answer["counters"] or self._counters.get(name, {})
            if name in self._new:
                self.window = self.window.plus(shown[name])
                asked = of_clients(shown[name], answer)
                self.clients = self.clients.plus(asked)
                self._answered_failed += asked.failed
                self.reasons += [reason for reason in answer["reasons"] if reason not in self.reasons]
        if self._old is not None and self._old not in found and self._old not in away:
            # It answers no more: there is nothing to compare with.
            self._seen.pop(self._old, None)
            self._old, self.rounds = None, []
            self._unanswered.clear()
        elif self._old is not None and self._timed:
            new = reduce(Observed.plus, [shown[name] for name in self._timed if name in shown], Observed())
            self.rounds.append((new, shown.get(self._old, Observed())))
        self._compare(found)
        errors = self._gateways.errors_5xx
        broken, self.unread = self._gateways.read()
        # What gateways answered before the hosts were asked, and no host has counted: its server ended, or never answered.
        missed = max(errors - self._answered_failed - self._missed, 0)
        self._missed += missed
        failed = Observed(broken + missed, broken + missed)
        self.window, self.clients = self.window.plus(failed), self.clients.plus(failed)
        self.unread += [f"the metrics of {name}" for name in self._new if name in found and not found[name]["counters"]]
        self.unread += [f"{name}, which cannot be reached" for name in self._new if name in away]
        for name in self._new if self.unread else ():
            self._context.progress.note(name, f"the step holds: cannot read {', '.join(self.unread)}")
        return lost

    def _ask(self, wanted: Mapping[str, int]) -> tuple[dict[str, dict[str, Any]], set[str]]:
        """Send synthetic requests on every host; return the answers, and the hosts that cannot be reached now."""
        context = self._context

        def call(host: Host) -> dict[str, Any]:
            paths, request = self._probed.install_paths[host.name], self._requests[host.name]
            asked: dict[str, float] = {**wanted}
            if host.name in self._since:
                asked["since"] = self._since[host.name]
            return sample(context.session(host), prefix=paths.prefix, root=paths.root, request=request, wanted=asked)

        hosts = [host for host in context.hosts() if host.name in self._requests]
        done, away = context.ask_hosts(hosts, call, deadline_s=SAMPLE_DEADLINE_S), set()
        for name, error in done.errors.items():
            if isinstance(error, TransportError):
                away.add(name)
                context.sessions.forget(context.host(name))
            else:
                context.fail(name, "serve", error)
        return done.values, away

    @property
    def untimed(self) -> str | None:
        """Return why no times are compared although a host serves the old release; None where they are, or none does."""
        if self._old is None or self._timed:
            return None
        return f"no times were compared: no changed host has the GPUs, the model and the former release of {self._old}"

    def _compare(self, found: Mapping[str, dict[str, Any]]) -> None:
        """Compare the answers of a round, where a host of the new release serves the model of the old one.

        The name of a model's folder on the host has a digest of its files, so it stands for the revision too.
        """
        if self._old is None or self._old not in found:
            return
        for name in self._unanswered & found.keys():
            self.compared.add(found[name], found[self._old])
            self._unanswered.remove(name)

    def _model(self, name: str) -> str:
        return PurePosixPath(self._requests[name]["model_folder"]).name

    def _device(self, name: str) -> list[str | None]:
        """Return the PCI ids of a host's GPUs, or the name of its CPU."""
        facts = self._probed.facts[name]
        return [*sorted(gpu.device_id for gpu in facts.pci_gpus)] or [facts.cpu.model]

    def decision(self, step: int, verdict: Verdict, text: str) -> Decision:
        """Return the decision with all that was observed, also before the last test began."""
        together = reduce(Observed.plus, [self._seen.get(name, Observed()) for name in self._new])
        old = self._seen.get(self._old) if self._old is not None else None
        broken = self._gateways.broken + self._missed

        def medians(measure: Measure) -> dict[str, float]:
            times = {"new": together.median_s(measure), "old": old.median_s(measure) if old is not None else None}
            return {name: round(value, 4) for name, value in times.items() if value is not None}

        return Decision(
            step=step,
            at=utc_now(),
            verdict=verdict,
            text=text,
            requests=together.requests + broken,
            failed=together.failed + broken,
            broken=broken,
            answers=self.compared.answers,
            differing=self.compared.differing,
            left_out=self.compared.left_out,
            first_token_s=medians("first_token"),
            inter_token_s=medians("inter_token"),
        )


def _without_digest(folder: str) -> str:
    """Return the name of a model from that of its folder: two revisions of one model may be timed against each other."""
    return folder.rpartition("-")[0]


class GatewayFailures:
    """Failures as gateways count them, which clients saw: vLLM counts no error after a stream began, and none when it ends."""

    def __init__(self, context: RunContext, names: Sequence[str]) -> None:
        self._context, self._names = context, names
        self._gateways = list(context.options.find_gateways())
        self._before: dict[tuple[str, str, str], int] = {}
        self.broken = 0
        """Answers that broke off since the first time."""
        self.errors_5xx = 0
        """Answers 5xx since then."""
        self.read()

    def read(self) -> tuple[int, list[str]]:
        """Return how many more answers broke off since the last time, and which gateways do not answer."""
        answers = ask(self._context, self._gateways)
        broken = 0
        for gateway, traffic in answers.traffics.items():
            for one in traffic.hosts:
                if one.host in self._names:
                    broken += self._grown((gateway, one.host, "broken"), one.broken)
                    self.errors_5xx += self._grown((gateway, one.host, "5xx"), one.errors_5xx)
        self.broken += broken
        return broken, [f"gateway {name}" for name in answers.silent]

    def _grown(self, counter: tuple[str, str, str], now: int) -> int:
        """Return how much a counter has grown. One that is less than before counts anew since a restart of HAProxy."""
        before = self._before.get(counter, now)
        self._before[counter] = now
        return now - before if now >= before else now


def was_unreachable(results: Iterable[PhaseResult]) -> bool:
    """Return whether a host could not be reached in a run."""
    return any(result.status == "unreachable" for result in results)


def observed(answer: dict[str, Any], before: dict[str, float] | None) -> Observed:
    """Return what one round has shown, by the server's counters after the round before, or those of the first round itself.

    The counters of the server hold the synthetic requests too. A request that only the client saw fail, such as a stream
    that broke, counts as well.
    """
    now, before = answer["counters"], before or answer["counters_before"]
    grown = {name: max(now[name] - before[name], 0.0) for name in now} if now and before else {}
    # Streams that vLLM ended with an error are in its log alone.
    counted = int(grown.get("failed", 0)) + answer.get("stream_errors", 0)
    failed = max(answer["failed"], counted)
    requests = max(answer["sent"], int(grown.get("finished", 0)) + counted, failed)
    return Observed(requests, failed, tuple(answer["first_token_s"]), tuple(answer["inter_token_s"]))


def of_clients(shown: Observed, answer: dict[str, Any]) -> Observed:
    """Return the requests of clients in a round: what it has shown without the synthetic requests."""
    return Observed(max(shown.requests - answer["sent"], 0), max(shown.failed - answer["failed"], 0))
