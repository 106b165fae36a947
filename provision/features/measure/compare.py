"""The command `verify compare`: what a choice of the service gains on each host."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from provision.core.errors import Exit, RemoteCommandError
from provision.core.install_paths import InstallPaths
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.core.redaction import redact, scrub
from provision.fleet.ssh import Session
from provision.phases.verify.run_checks import DRAIN_S, run_tool
from provision.phases.verify.step import resume_services
from provision.pipeline import CommandRequest
from provision.pipeline.commands import print_summary, write_stdout
from provision.pipeline.phases import PROBE
from provision.pipeline.runner import execute
from provision.run import playbooks
from provision.run.context import RunContext
from provision.run.results import ProbedHosts
from provision.run.step import Step
from verify.records import EXIT_CODES

STATUSES: dict[int, Any] = {0: "ok", 1: "warn"}
COMPARE_S = 3 * DRAIN_S
"""For starting and measuring two servers, and restarting the service."""


@dataclass(frozen=True)
class ComparedHosts(ProbedHosts):
    """Hosts whose service was measured with two choices."""

    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def compare(request: CommandRequest, *, words: Sequence[str]) -> int:
    """Measure each host's service with the arguments of `verify.pyz compare`, print the tables, and return the exit code of the checks."""
    outcome = execute(request, (PROBE, Step("compare", partial(_measure_hosts, words=words), "verify")))
    if outcome.exit_code == Exit.INTERRUPTED or not isinstance(outcome.result, ComparedHosts):
        return print_summary(outcome)
    found = outcome.result.documents
    if request.as_json:
        write_stdout(json.dumps([{"host": name, **scrub(document)} for name, document in found.items()], indent=2))
    else:
        for name, document in found.items():
            write_stdout(redact("\n".join([f"host {name}", *document["table"]])))
    if len(found) < len([host for host in outcome.hosts if host.is_provisioned]):
        if not request.as_json:
            print_summary(outcome)
        return EXIT_CODES["error"]
    return max((int(document["exit_code"]) for document in found.values()), default=EXIT_CODES["error"])


def _measure_hosts(context: RunContext, probed: ProbedHosts, *, words: Sequence[str]) -> ComparedHosts:
    def call(host: Host) -> dict[str, Any]:
        return _measure(context.session(host), probed.install_paths[host.name], words)

    hosts = playbooks.acquire_locks(context, probed, "verify", context.hosts())
    try:
        documents = context.run_on_hosts("verify", hosts, call, deadline_s=COMPARE_S)
    except KeyboardInterrupt:
        resume_services(context, probed, hosts)
        raise
    for name, document in documents.items():
        context.run.write(f"compare/{name}.json", document)
        prefix = probed.install_paths[name].prefix
        context.run.change("compare", host=name, path=prefix, changed=True, words=" ".join(words))
        status = STATUSES.get(document["exit_code"], "failed")
        missed = ", ".join(document["missed"])
        named = any(row["target"] for row in document["rows"])
        text = f"targets missed: {missed}" if missed else "every target is met" if named else "measured"
        context.record(PhaseResult(host=name, phase="verify", status=status, text=text))
    return ComparedHosts(**vars(probed), documents=documents)


def _measure(session: Session, paths: InstallPaths, words: Sequence[str]) -> dict[str, Any]:
    """Measure a host's service with two choices, and return the document of `verify.pyz compare`. Raises RemoteCommandError."""
    asked = ["compare", *words, "--json"]
    prefix = paths.prefix.rstrip("/")
    done = run_tool(session, prefix, "current", asked, stdin=None, limit_s=COMPARE_S, root=paths.root)
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        output = done.stderr.strip().removeprefix("error: ") or f"verify.pyz ended with {done.rc}"
        text, _, hint = output.partition("\n\nhint: ")
        raise RemoteCommandError(f"host `{session.host}`: {text}", hint=hint or "./firstlight status") from None
    return document
