"""Command `verify compare --backend A --backend B`: measure the service with two attention back ends."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from verify.cli.arguments import Parser, prefix_of
from verify.cli.load import add_load, load_of, service_for_load
from verify.records import EXIT_CODES, INTERRUPTED_EXIT
from verify.serving import comparison
from verify.serving.service import Service
from verify.serving.service_control import ControlError, drain_service
from verify.tables import table

HEAD = f"{'measure':<28}{'before':>12}{'after':>12}  {'unit':<9}{'change':>8}  {'target':<15}verdict"
NOT_MEASURED = "-"


def main(arguments: list[str]) -> int:
    """Return 0: all targets are met; 1: one is missed; 2: the service did not come back; 3: a back end cannot be measured."""
    parser = Parser(
        prog="verify compare",
        description="Measure this host's service with two attention back ends; then restart it as it was.",
        epilog="exit codes: 0 every target is met, 1 one is missed, 2 the service did not come back, 3 a back end cannot "
        "be measured, 64 usage",
        hint="verify compare --backend FLASH_ATTN --backend TRITON_ATTN",
    )
    parser.add_argument("--backend", metavar="NAME", action="append", default=[], help="one of the two back ends")
    parser.add_argument(
        "--target",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="what a measure must reach with the second one, as a change or in its unit: first_token=-40%%, ttft=30ms, output=1400; "
        f"repeatable ({', '.join(measure['name'] for measure in table('compare')['measure'])})",
    )
    add_load(parser)
    parser.add_prefix_and_json()
    options = parser.parse_args(arguments)
    names: list[str] = options.backend
    if len(names) != 2 or names[0] == names[1]:
        parser.error(f"compare needs two different back ends, {len(names)} given: {', '.join(names)}")
    try:
        targets = dict(comparison.parse_target(text) for text in options.target)
    except ValueError as error:
        parser.error(str(error))
    try:
        document = _compare(service_for_load(prefix_of(options.prefix)), names, targets, load_of(options))
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED_EXIT, "interrupted\n")
    except (ControlError, comparison.VariantError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_CODES["error"]
    sys.stdout.write(json.dumps(document, indent=2) + "\n" if options.json else "\n".join([*document["table"], ""]))
    return int(document["exit_code"])


def _compare(
    service: Service,
    names: list[str],
    targets: Mapping[str, comparison.Target],
    load: Mapping[str, Any],
) -> dict[str, Any]:
    """Measure the back ends; raises ControlError, VariantError and OSError after the service is back."""
    comparison.require_alone(service)
    command = comparison.running(service)
    commands = {name: comparison.with_backend(command, name) for name in names}  # report their own problem first
    problem, measured = "", dict[str, dict[str, Any]]()
    with drain_service(service) as drain:
        try:
            for label, asked in commands.items():
                measured[label] = comparison.measure(service, asked, load)
        except comparison.VariantError as error:
            problem = f"{label}: {error}"
    assert drain.outcome is not None
    if problem:
        raise comparison.VariantError(f"{problem}; {drain.outcome.reason}")
    most = comparison.at_once(*measured.values())
    before, after = (comparison.figures(one, most) for one in measured.values())
    comparison.require_difference(names, before, after)
    rows = comparison.side_by_side(before, after, targets)
    missed = [row["name"] for row in rows if row["met"] is False]
    code = EXIT_CODES["fail" if drain.outcome.status != "ok" else "warn" if missed else "ok"]
    document = {
        "schema_version": 1,
        "kind": "backend",
        "load": {name: load[name] for name in ("input_tokens", "output_tokens", "concurrencies")},
        "before": {"choice": names[0], **before},
        "after": {"choice": names[1], **after},
        "rows": rows,
        "missed": missed,
        "service": drain.outcome.as_json(),
        "exit_code": code,
    }
    return {**document, "table": table_of(document)}


def table_of(document: Mapping[str, Any]) -> list[str]:
    """Return the lines that a person reads: the load, the measures with their targets, and what became of the service."""
    load, sides = document["load"], [document[side] for side in ("before", "after")]
    details = " and ".join(f"{side['choice']} (layers use {', '.join(side['used']) or 'unknown'})" for side in sides)
    lines = [
        f"{document['kind']}: {details}",
        f"speeds with {sides[1]['at_once']} requests at once, prompts of {load['input_tokens']} tokens, answers of {load['output_tokens']}",
        HEAD,
        "-" * len(HEAD),
    ]
    for row in document["rows"]:
        before, after = (NOT_MEASURED if row[side] is None else f"{row[side]:.4g}" for side in ("before", "after"))
        change = NOT_MEASURED if row["change"] is None else f"{row['change']:+.1%}"
        columns = f"{row['title']:<28}{before:>12}{after:>12}  {row['unit']:<9}{change:>8}"
        lines.append(f"{columns}  {row['target']:<15}{row['verdict']}".rstrip())
    return [*lines, "", document["service"]["reason"]]
