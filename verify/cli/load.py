"""Command `verify load`: the running service under load by `vllm bench serve`, and the change since the last measurement of such a load.

PREFIX/verify/loads.json keeps the newest measurements with the release that was measured.
"""

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from verify.checks.serving.requests import evaluate_load
from verify.cli.arguments import Parser, above_zero, count, prefix_of
from verify.files import read_json, write_atomically
from verify.records import EXIT_CODES, INTERRUPTED_EXIT, CheckResult
from verify.runner.child_processes import run_one
from verify.serving.comparison import under_load
from verify.serving.service import Service, find
from verify.tables import table

REQUESTS = 8
"""Fewest requests that are measured with a concurrency or rate of the user."""
RATE_S = 10
"""Seconds in which the requests of a rate arrive."""
LOAD_S = 1800.0
"""Time limit, in addition to the time in which the requests of a rate arrive, twice: others go before them."""
KEPT = "verify/loads.json"
MOST_KEPT = 50
HEAD = f"{'measure':<44}{'value':>12}{'before':>12}  {'unit':<9}{'change':>8}"


def main(arguments: list[str]) -> int:
    """Return 0: measured; 2: requests got no answer; 3: the load cannot be measured."""
    parser = Parser(
        prog="verify load",
        description="Measure this host's running service under load, and compare with the last measurement of the same load.",
        epilog="exit codes: 0 measured, 2 requests got no answer, 3 the load cannot be measured, 64 usage",
        hint="verify load --input-tokens 2000 --output-tokens 200 --concurrency 8",
    )
    add_load(parser)
    parser.add_argument("--rate", metavar="N", type=above_zero, help="requests per second, instead of some at once")
    parser.add_argument("--requests", metavar="N", type=count, help="number of requests, with --rate or --concurrency")
    dataset = "prompts and lengths of answers as ShareGPT has them, instead of random prompts: a JSON file, - for stdin"
    parser.add_argument("--dataset", metavar="FILE", help=dataset)
    parser.add_prefix_and_json()
    options = parser.parse_args(arguments)
    if options.dataset and options.input_tokens:
        parser.error("the prompts of --dataset have their own lengths: leave out --input-tokens")
    if options.requests and not (options.rate or options.concurrency):
        parser.error("--requests belongs to --rate or --concurrency")
    try:
        document = _measured(prefix_of(options.prefix), options)
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED_EXIT, "interrupted\n")
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_CODES["error"]
    sys.stdout.write(json.dumps(document, indent=2) + "\n" if options.json else "\n".join([*document["table"], ""]))
    return int(document["exit_code"])


def add_load(parser: argparse.ArgumentParser) -> None:
    """Add the options for lengths and concurrency."""
    load = table("serving")["load"]
    for option, what, default in (
        ("--input-tokens", "length of the prompts in tokens", load["input_tokens"]),
        ("--output-tokens", "length of the answers in tokens", load["output_tokens"]),
        ("--concurrency", "requests at once", "up to " + str(max(load["concurrencies"]))),
    ):
        parser.add_argument(option, metavar="N", type=count, help=f"{what} (default: {default})")


def load_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the load: that of serving.toml, with what the user named."""
    load: dict[str, Any] = dict(table("serving")["load"])
    load |= {name: value for name in ("input_tokens", "output_tokens") if (value := getattr(options, name)) is not None}
    rate, concurrency = getattr(options, "rate", None), options.concurrency
    if rate or concurrency:
        least = math.ceil(rate * RATE_S) if rate else 2 * concurrency
        requests = getattr(options, "requests", None) or max(REQUESTS, least)
        load |= {"rate": rate, "concurrencies": [concurrency or requests], "requests": [requests]}
    return load


def service_for_load(prefix: Path) -> Service:
    """Return the running service. Raises OSError where there is none, or its model makes no text."""
    service = find(prefix)
    if service is None or service.main_pid is None:
        raise OSError("no service runs from this environment\n\nhint: start it: ./firstlight serve")
    if service.task != "generate":
        raise OSError("its model makes no text, and this load requests text")
    return service


def _measured(prefix: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the document, and keep it on the host. Raises OSError."""
    service, load = service_for_load(prefix), load_of(options)
    with NamedTemporaryFile(suffix=".json") as file:
        if options.dataset:
            prompts = sys.stdin.buffer.read() if options.dataset == "-" else Path(options.dataset).read_bytes()
            load |= {"dataset": hashlib.sha256(prompts).hexdigest()}
            load |= {"input_tokens": None, "output_tokens": options.output_tokens}
            file.write(prompts)
            file.flush()
        # The same prompts of a file as the last time; other random ones, since those may be in the service's prefix cache.
        seed = 0 if options.dataset else int(time.time())
        measuring = partial(under_load, service, load, dataset=file.name, seed=seed, warmed=True)
        lasting_s = load["requests"][0] / load["rate"] if load.get("rate") else 0.0
        ending = run_one(lambda: list(measuring()), deadline_s=LOAD_S + 2 * lasting_s)
    if ending.problem:
        raise OSError(f"cannot measure under load: {ending.problem}")
    kept = read_json(prefix / KEPT).get("loads", [])
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    asked = {"release": service.readiness.get("release"), "load": load, "at": now}
    # Requests without an answer change the figures of the others.
    before = next((one for one in reversed(kept) if one["load"] == load and one["exit_code"] == EXIT_CODES["ok"]), None)
    document = _compared(evaluate_load(ending.value, {}), asked, before)
    write_atomically(prefix / KEPT, json.dumps({"loads": [*kept, document][-MOST_KEPT:]}, indent=2) + "\n")
    return {**document, "table": _table(document)}


def _compared(outcome: CheckResult, asked: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the document of a measurement, with the change of each figure since the last document of the same load."""
    was = {row["name"]: row["value"] for row in (before or {}).get("rows", ())}
    rows = [
        {
            "name": figure.name,
            "unit": figure.unit,
            "value": figure.value,
            "before": (then := was.get(figure.name)),
            "change": round(figure.value / then - 1, 9) if then and figure.value is not None else None,
        }
        for figure in outcome.figures
    ]
    return {
        "schema_version": 1,
        **asked,
        "before": {name: before[name] for name in ("release", "at")} if before else None,
        "rows": rows,
        "reason": outcome.reason,
        "exit_code": EXIT_CODES[outcome.status],
    }


def _table(document: Mapping[str, Any]) -> list[str]:
    before, lines = document["before"], [document["reason"], HEAD, "-" * len(HEAD)]
    for row in document["rows"]:
        now, then = ("-" if row[side] is None else f"{row[side]:.4g}" for side in ("value", "before"))
        change = "-" if row["change"] is None else f"{row['change']:+.1%}"
        lines.append(f"{row['name']:<44}{now:>12}{then:>12}  {row['unit']:<9}{change:>8}")
    same = before and ("the same release" if before["release"] == document["release"] else "another release")
    last = f"before: {same}, measured at {before['at']}" if before else "no earlier measurement of this load"
    return [*lines, "", last]
