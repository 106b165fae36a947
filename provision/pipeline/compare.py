"""The command `verify compare`: what a choice of the service gains, host by host."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from provision.core.errors import Exit
from provision.core.models.records import PhaseResult
from provision.core.models.settings import Host
from provision.pipeline import Request, playbooks, verify
from provision.pipeline.commands import print_summary, write_stdout
from provision.pipeline.context import RunContext
from provision.pipeline.phases import PROBE
from provision.pipeline.runner import execute
from verify.records import EXIT_CODES

STATUSES: dict[int, Any] = {0: "ok", 1: "warn"}


def compare(request: Request, *, words: Sequence[str], as_json: bool) -> int:
    """Measure each host's service with both choices and print the tables; exit code by the scale of the checks."""
    found: dict[str, dict[str, Any]] = {}

    def step(context: RunContext) -> None:
        playbooks.acquire_locks(context, "verify", context.hosts())
        hosts = context.hosts()
        try:
            found.update(_measure(context, hosts, words))
        except KeyboardInterrupt:
            verify.resume_services(context, hosts)
            raise

    summary, code = execute(request, (PROBE, ("verify", step)))
    if code == Exit.INTERRUPTED:
        print_summary(request, summary, as_json=as_json)
        return code
    if as_json:
        write_stdout(json.dumps([{"host": name, **document} for name, document in found.items()], indent=2))
    else:
        for name, document in found.items():
            write_stdout("\n".join([f"host {name}", *document["table"]]))
    if len(found) < len(summary.hosts):
        if not as_json:
            print_summary(request, summary)
        return EXIT_CODES["error"]
    return max((int(document["exit_code"]) for document in found.values()), default=EXIT_CODES["error"])


def _measure(context: RunContext, hosts: Sequence[Host], words: Sequence[str]) -> dict[str, dict[str, Any]]:
    from provision.phases.verify.run_checks import COMPARE_S  # noqa: PLC0415 - only this command pays for it
    from provision.phases.verify.run_checks import compare as run_both  # noqa: PLC0415 - only this command pays for it

    def call(host: Host) -> dict[str, Any]:
        paths = context.install_paths[host.name]
        return run_both(context.session(host), prefix=paths.prefix, words=words, root=paths.root)

    documents = context.run_on_hosts("verify", hosts, call, deadline_s=COMPARE_S)
    for name, document in documents.items():
        context.run.write(f"compare/{name}.json", document)
        context.run.change(
            "compare", host=name, path=context.install_paths[name].prefix, changed=True, words=" ".join(words)
        )
        status = STATUSES.get(document["exit_code"], "failed")
        missed = ", ".join(document["missed"])
        text = f"targets missed: {missed}" if missed else "every target is met"
        context.record(PhaseResult(host=name, phase="verify", status=status, text=text))
    return documents
