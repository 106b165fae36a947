"""The commands `verify compare` and `verify load`: what a choice of the service gains on each host, and the service under load."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from provision.core.errors import Exit, InventoryError, RemoteCommandError
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.core.redaction import redact, scrub
from provision.phases.verify.run_checks import DRAIN_S, Tool
from provision.phases.verify.step import resume_services
from provision.pipeline import CommandRequest
from provision.pipeline.commands import print_summary, write_stdout
from provision.pipeline.phases import PROBE
from provision.pipeline.runner import execute
from provision.run import playbooks
from provision.run.context import RunContext
from provision.run.results import AnsweredHosts, ProbedHosts
from provision.run.step import Step
from verify.records import EXIT_CODES

Kind = Literal["compare", "load"]
STATUSES: dict[int, Any] = {0: "ok", 1: "warn"}
COMPARE_S = 3 * DRAIN_S
"""For starting and measuring two servers, and restarting the service; a load alone takes less, unless its requests arrive slowly."""


def measure(
    request: CommandRequest,
    kind: Kind,
    words: Sequence[str],
    stdin: str | None = None,
    *,
    before: Sequence[Step] = (PROBE,),
    lasting_s: float = 0.0,
) -> int:
    """Measure each host's service by a command of `verify.pyz`, print the tables, and return the exit code of the checks.

    Args:
        before: Steps that come first; hosts that one of them leaves out are not missed.
        lasting_s: Time in which the requests of a rate arrive.

    Raises InventoryError where no host answers requests.
    """
    measuring = partial(_measure_hosts, kind=kind, words=words, stdin=stdin, limit_s=COMPARE_S + 2 * lasting_s)
    outcome = execute(request, (*before, Step(kind, measuring, "verify")))
    if outcome.exit_code == Exit.INTERRUPTED or not isinstance(outcome.result, AnsweredHosts):
        return print_summary(outcome)
    if not (answering := _answering(outcome.hosts)):
        hint = "look at firstlight_serve and --limit: of hosts that serve a model together, the first answers requests"
        raise InventoryError("none of these hosts answers requests", hint=hint)
    found: Mapping[str, Mapping[str, Any]] = outcome.result.answer
    if request.as_json:
        write_stdout(json.dumps([{"host": name, **scrub(document)} for name, document in found.items()], indent=2))
    else:
        for name, document in found.items():
            write_stdout(redact("\n".join([f"host {name}", *document["table"]])))
    out = {host.name for host in outcome.summary.hosts if host.state == "quarantined"}
    if len(found) < len([host for host in answering if host.name not in out]):
        if not request.as_json:
            print_summary(outcome)
        return EXIT_CODES["error"]
    return max(
        (int(document["exit_code"]) for document in found.values()), default=EXIT_CODES["ok" if out else "error"]
    )


def _answering(hosts: Sequence[Host]) -> list[Host]:
    """Return the hosts that answer requests: those that serve, and the head of a span alone."""
    return [host for host in hosts if host.is_serving and host.name == host.head]


def _measure_hosts(
    context: RunContext, probed: ProbedHosts, *, kind: Kind, words: Sequence[str], stdin: str | None, limit_s: float
) -> AnsweredHosts[dict[str, dict[str, Any]]]:
    def call(host: Host) -> dict[str, Any]:
        paths, command = probed.install_paths[host.name], [kind, *words, "--json"]
        prefix, session = paths.prefix.rstrip("/"), context.session(host)
        done = Tool(session, prefix, "current", paths.root).run(command, stdin=stdin, limit_s=limit_s)
        try:
            document: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            output = done.stderr.strip().removeprefix("error: ") or f"verify.pyz ended with {done.rc}"
            text, _, hint = output.partition("\n\nhint: ")
            raise RemoteCommandError(f"host `{host.name}`: {text}", hint=hint or "./firstlight status") from None
        return document

    hosts = playbooks.acquire_locks(context, probed, "verify", _answering(context.hosts()))
    found: dict[str, dict[str, Any]] = {}
    try:
        # The load of one service would change the figures of another one on the same machine.
        for each in playbooks.in_rounds(hosts):
            found |= context.run_on_hosts("verify", each, call, deadline_s=limit_s)
    except KeyboardInterrupt:
        resume_services(context, probed, hosts)
        raise
    documents = {host.name: found[host.name] for host in hosts if host.name in found}
    for name, document in documents.items():
        context.run.write(f"{kind}/{name}.json", document)
        prefix = probed.install_paths[name].prefix
        context.run.change(kind, host=name, path=prefix, changed=kind == "compare", words=" ".join(words))
        status = STATUSES.get(document["exit_code"], "failed")
        context.record(PhaseResult(host=name, phase="verify", status=status, text=_text(document)))
    return AnsweredHosts(**vars(probed), answer=documents)


def _text(document: Mapping[str, Any]) -> str:
    if "reason" in document:
        return str(document["reason"])
    missed = ", ".join(document["missed"])
    named = any(row["target"] for row in document["rows"])
    return f"targets missed: {missed}" if missed else "every target is met" if named else "measured"
