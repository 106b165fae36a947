"""The command `verify compare`: what a choice of the service gains on each host."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from provision.core.errors import Exit
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.core.redaction import redact, scrub
from provision.phases.verify.run_checks import COMPARE_S
from provision.phases.verify.run_checks import compare as compare_choices
from provision.pipeline import CommandRequest, playbooks
from provision.pipeline.commands import print_summary, write_stdout
from provision.pipeline.context import RunContext
from provision.pipeline.phases import PROBE
from provision.pipeline.results import ComparedHosts, ProbedHosts
from provision.pipeline.runner import execute
from provision.pipeline.step import Step
from provision.pipeline.verify import resume_services
from verify.records import EXIT_CODES

STATUSES: dict[int, Any] = {0: "ok", 1: "warn"}


def compare(request: CommandRequest, *, words: Sequence[str], as_json: bool) -> int:
    """Measure each host's service with two choices, and print the tables.

    Args:
        request: The command.
        words: The arguments of `verify.pyz compare`.
        as_json: Whether one JSON document is printed.

    Returns:
        The exit code, on the scale of the checks.
    """
    outcome = execute(request, (PROBE, Step("compare", partial(_measure, words=words), "verify")))
    if outcome.exit_code == Exit.INTERRUPTED or not isinstance(outcome.result, ComparedHosts):
        print_summary(outcome, as_json=as_json)
        return outcome.exit_code
    found = outcome.result.documents
    if as_json:
        write_stdout(json.dumps([{"host": name, **scrub(document)} for name, document in found.items()], indent=2))
    else:
        for name, document in found.items():
            write_stdout(redact("\n".join([f"host {name}", *document["table"]])))
    if len(found) < len([host for host in outcome.hosts if host.is_provisioned]):
        if not as_json:
            print_summary(outcome)
        return EXIT_CODES["error"]
    return max((int(document["exit_code"]) for document in found.values()), default=EXIT_CODES["error"])


def _measure(context: RunContext, probed: ProbedHosts, *, words: Sequence[str]) -> ComparedHosts:
    def call(host: Host) -> dict[str, Any]:
        paths = probed.install_paths[host.name]
        return compare_choices(context.session(host), prefix=paths.prefix, words=words, root=paths.root)

    playbooks.acquire_locks(context, probed, "verify", context.hosts())
    hosts = context.hosts()
    try:
        documents = context.run_on_hosts("verify", hosts, call, deadline_s=COMPARE_S)
    except KeyboardInterrupt:
        resume_services(context, probed, hosts)
        raise
    for name, document in documents.items():
        context.run.write(f"compare/{name}.json", document)
        context.run.change(
            "compare", host=name, path=probed.install_paths[name].prefix, changed=True, words=" ".join(words)
        )
        status = STATUSES.get(document["exit_code"], "failed")
        missed = ", ".join(document["missed"])
        text = f"targets missed: {missed}" if missed else "every target is met"
        context.record(PhaseResult(host=name, phase="verify", status=status, text=text))
    return ComparedHosts(**vars(probed), documents=documents)
