"""What `status` says of a host: what is installed and serves there, and what features add to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provision.core import features
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.records import ServeRecord
from provision.phases.serve.readiness import stream_errors
from provision.report.endpoint import chat_commands, key_file, names_of
from provision.report.layout import count
from provision.report.wording import verified_line
from provision.run.context import RunContext
from provision.run.results import AnsweredHosts, ProbedHosts
from provision.run.rollback import readiness_of

LOG_MINUTES = 5
"""Minutes of a service's log in which streams that ended with an error are counted, as in its metrics (`stream_error` of serving.toml)."""
LOG_DEADLINE_S = 30.0


@dataclass(frozen=True)
class StatusPart:
    """What a feature says of one host."""

    document: Mapping[str, Any]
    """Its part of the JSON document."""
    text: str = ""
    """Its part of the host's line; empty where there is nothing to say."""
    is_red: bool = False
    """Whether it is a fault."""


def ask_features(context: RunContext, probed: ProbedHosts) -> AnsweredHosts[dict[str, list[StatusPart]]]:
    """Collect what services say of their streams, and features of the hosts that were reached."""
    parts: dict[str, list[StatusPart]] = {name: [] for name in probed.facts}
    for name, part in _streams(context, probed).items():
        parts[name].append(part)
    for status in features.hooks("status"):
        for name, part in status(context, probed).items():
            parts[name].append(part)
    return AnsweredHosts(**vars(probed), answer=parts)


def _streams(context: RunContext, probed: ProbedHosts) -> dict[str, StatusPart]:
    """Return how many streams each service ended with an error lately, which neither its metrics nor a gateway count.

    A host whose program does not answer is left out.
    """
    requests = {
        name: request
        for name, facts in probed.facts.items()
        if facts.installed
        and facts.installed.service == "active"
        and (request := readiness_of(facts.installed.state or {}))
        and not request.get("headless")
    }

    def ask(host: Host) -> int:
        paths, request = probed.install_paths[host.name], requests[host.name]
        session = context.session(host)
        return stream_errors(session, prefix=paths.prefix, root=paths.root, request=request, seconds=LOG_MINUTES * 60.0)

    asked = context.ask_hosts([context.host(name) for name in requests], ask, deadline_s=LOG_DEADLINE_S).values
    parts = {}
    for name, errors in asked.items():
        text = f"ended {count(errors, 'stream')} with an error in the last {LOG_MINUTES} minutes" if errors else ""
        parts[name] = StatusPart({"stream_errors": errors}, text)
    return parts


def serving_of(host: Host, facts: HostFacts) -> dict[str, Any] | None:
    """Return the model that a host serves, its adapters, its address, where its key is, and the commands that ask it; None where it serves none.

    It is what the last proof of the running release says.
    """
    installed = facts.installed
    ready = (installed.last_ready if installed else None) or {}
    if installed is None or installed.service != "active" or ready.get("release") != installed.release:
        return None
    try:
        proof = ServeRecord.model_validate(ready.get("record"), extra="ignore")
    except ValueError:
        return None
    if proof.endpoint is None or proof.model is None:
        return None
    key = key_file(host, installed.prefix)
    call = chat_commands(proof, key, host, facts.user.name)
    adapters = [*proof.adapters]
    return {"model": proof.model, "adapters": adapters, "endpoint": proof.endpoint, "key_file": key, "call": [*call]}


def described(host: Host, facts: HostFacts, *, serving: Mapping[str, Any] | None, parts: Sequence[StatusPart]) -> str:
    """Return one line of what is on a host; `serving` is the result of `serving_of`, and `parts` what features say of it."""
    installed = facts.installed
    words = []
    if serving:
        key = f", API key in {serving['key_file']} on the host" if serving["key_file"] else ""
        words.append(f"model {names_of(serving['model'], serving['adapters'])} at {serving['endpoint']}{key}")
    if installed is not None and (installed.state is not None or installed.environments):
        others = sorted(set(installed.releases) - {installed.release, installed.previous_release})
        words += [
            f"release {installed.release}" if installed.release else "no release",
            *([f"previous release {installed.previous_release}"] if installed.previous_release else []),
            *(f"release {digest} not in use" for digest in others),
            f"environment {installed.current}" if installed.current else "no environment in use",
            f"service {installed.service}" if installed.service else "no service",
            verified_line(installed.last_verify, facts.probed_at, installed.current),
            *(f"drift: {drift.sentence}" for drift in installed.drift),
            *(f"of others: {text}" for text in installed.foreign),
        ]
    elif host.is_provisioned:
        words.append("nothing installed")
    words += [part.text for part in parts if part.text]
    if installed is not None and installed.locked_by:
        words.append(f"locked by run {installed.locked_by.get('run', '?')}")
    return "; ".join(words)
