"""Command `verify soak --minutes N`: light load and kernels in rounds; growing memory, growing descriptors and errors are failures."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from verify.binaries.distributions import planned_stack
from verify.cli.arguments import Parser, above_zero, keep, prefix_of
from verify.records import EXIT_CODES, INTERRUPTED_EXIT, CheckContext, CheckResult, as_record, worst_status
from verify.runner.execution import run, with_dependencies
from verify.runner.registry import all_checks, select
from verify.runner.report import render
from verify.serving.service import find
from verify.serving.soak import evaluate_soak, soak_service
from verify.tables import table

KERNELS = ("kernels.gemm", "kernels.vector_add")
SOAK = "serving.soak"


def main(arguments: list[str]) -> int:
    """Run the command; exit codes are those of the checks."""
    parser = Parser(
        prog="verify soak",
        description="Put load on the service and run kernels in rounds; fail on errors and on growing memory or descriptors.",
        epilog="exit codes: those of verify",
        hint="verify soak --minutes 10",
    )
    parser.add_argument("--minutes", metavar="N", type=above_zero, required=True, help="how long")
    parser.add_argument("--write", metavar="FILE", type=Path, help="also write the document to this file")
    parser.add_prefix_and_json()
    options = parser.parse_args(arguments)
    try:
        document = _soaked(prefix_of(options.prefix), options.minutes)
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED_EXIT, "interrupted\n")
    text = json.dumps(document, indent=2) + "\n"
    is_kept = keep(options.write, text)
    sys.stdout.write(text if options.json else render(document))
    return EXIT_CODES[document["status"] if is_kept else "error"]


def _soaked(prefix: Path, minutes: float) -> dict[str, Any]:
    """Return the document of the first run of kernels, with the worst record of all runs, and one of the service."""
    stack = planned_stack(Path(sys.prefix).resolve())
    context = CheckContext(level="quick", expect={"stack": stack}, service=find(prefix))
    checks = with_dependencies((check for check in all_checks() if check.id in select(KERNELS)), all_checks())
    service, load = context.service, table("soak")["load"]
    documents = [run(checks, context)]

    def between(number: int) -> None:
        if number % load["kernels_every"] == load["kernels_every"] - 1:
            documents.append(run(checks, context))

    began = time.monotonic()
    if service is None or service.main_pid is None:
        outcome = CheckResult("skip", "no service runs from this environment", remedy="start it: ./firstlight serve")
    else:
        try:
            seen = soak_service(service, seconds=60 * minutes, between=between, pause_s=load["pause_s"])
            outcome = evaluate_soak(seen, service.name)
        except OSError as error:
            outcome = CheckResult("error", f"cannot tell: {error}")
    lasted = time.monotonic() - began
    times = f"{len(documents)} times" if len(documents) > 1 else "once"
    worst: dict[tuple[str, str | None], dict[str, Any]] = {}
    for record in (record for document in documents for record in document["checks"]):
        before = worst.get((record["id"], record["device"]), record)
        if worst_status([before["status"], record["status"]]) == record["status"]:
            worst[record["id"], record["device"]] = record
    of_kernels = [{**record, "reason": f"{times}: {record['reason']}"} for record in worst.values()]
    records = [*of_kernels, as_record(SOAK, documents[0]["host"], None, outcome, lasted)]
    status = worst_status([record["status"] for record in records])
    seconds = round(documents[0]["seconds"] + lasted, 3)
    return {**documents[0], "status": status, "seconds": seconds, "checks": records}
