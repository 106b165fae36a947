"""Command `verify upgrade MODEL:FACTORY`: upgrade a model's attention, prove it equal, and measure the gain."""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import replace
from typing import Any

from verify.cli.arguments import Parser
from verify.files import replaced
from verify.models.source import UnusableError, beside, difference
from verify.printable import wrapped
from verify.records import EXIT_CODES

DTYPES = ("float32", "bfloat16", "float16")
MIB = 1 << 20


def main(arguments: list[str]) -> int:
    """Return 0: the upgrade is equal; 1: equal without a gain; 2: it differs and is not written; 3: unknown."""
    parser = _parser()
    options = parser.parse_args(arguments)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler, which measures memory, would log every start
    try:
        from verify.models import upgrade  # noqa: PLC0415 - needs torch, and --help does not
    except ImportError as error:
        return _refuse(f"torch does not import: {error}", "run it with the Python of an environment that has torch")

    try:
        own = upgrade.load(options.model)
        device = options.device or upgrade.default_device()
        own = own.on(device, options.dtype)
        text = place = None
        if options.write or options.diff:
            flash, names, text = upgrade.rebuilt(own, options.model)
            place = beside(own.source) if options.write and own.source else None
            if place and place.exists() and place.read_bytes() != text.encode():
                return _refuse(f"{place} exists and holds something else", "rename or remove it")
        else:
            flash, names = upgrade.upgraded(own)
        measured = upgrade.compare(own, flash)
        layers = upgrade.compare_layers(own, flash, names, device)
    except UnusableError as error:
        return _refuse(str(error), "FACTORY takes nothing and returns (model, inputs): verify upgrade --help")
    except Exception as error:  # noqa: BLE001 - the module, the model and its inputs are somebody's own, and raise anything
        traceback.print_exc()
        problem = f"the model could not be compared: {type(error).__name__}: {error}"
        return _refuse(problem, "it must run forward and backward on its own, on that device and in that precision")
    compared = [*measured, *(error for error, _ in layers)]
    kernels = upgrade.kernels_used(flash)
    outcome = upgrade.evaluate(compared, kernels, same=upgrade.same_state(own, flash))
    is_equal = outcome.status in ("ok", "warn")
    if is_equal:
        outcome = replace(outcome, figures=(*outcome.figures, *upgrade.timed(own, flash, device)))
    if not is_equal or {*kernels.values()} <= {None, "torch"}:
        place = None
    if place and own.source and text is not None:
        try:
            with replaced(place) as file:
                file.write(text.encode())
            place.chmod(own.source.stat().st_mode)
        except OSError as error:
            return _refuse(f"{place} cannot be written: {error.strerror}", "copy the module to a folder of yours")
    document = {"model": options.model, "device": device, "upgraded": names, "layers": [row for _, row in layers]}
    document |= outcome.as_json()
    document["written"] = str(place) if place else None
    document["difference"] = difference(own.source, text) if text is not None and own.source else None
    sys.stdout.write(json.dumps(document, indent=2) + "\n" if options.json else render(document))
    return EXIT_CODES[outcome.status]


def render(document: dict[str, Any]) -> str:
    """Return the verdict, the kernels in use, and both models and their layers side by side as text."""
    kernels = sorted({kernel for kernel in document["evidence"]["kernels"].values() if kernel})
    lines = wrapped(f"{document['status']}: ", document["reason"])
    lines.append(f"upgraded {len(document['upgraded'])} modules, computed by {' and '.join(kernels) or 'nothing'}")
    values = {figure["name"]: figure for figure in document["figures"]}
    for name, figure in values.items():
        what, _, side = name.partition(", ")
        if side == "original":
            before, after = figure["value"], values[f"{what}, upgraded"]["value"]
            unit, size = ("MiB", MIB) if figure["unit"] == "B" else (figure["unit"], 1)
            change = f"{after / before:.2f} of it" if before else "-"
            lines.append(f"{what:<22}{before / size:>12.4g} {unit:<4}{after / size:>12.4g}  {change}")
    if document["layers"]:
        lines.append(f"{'layer, original and upgraded':<36}{'error':>20}{'ms':>20}{'peak MiB':>20}")
    for layer in document["layers"]:
        error = f"{layer['original_error']:>8.1e} {layer['error']:>8.1e}"
        time = f"{layer['original_ms']:>8.3g} {layer['upgraded_ms']:>8.3g}"
        memory = f"{layer['original_peak_bytes'] / MIB:>8.3g} {layer['upgraded_peak_bytes'] / MIB:>8.3g}"
        lines.append(f"{layer['name'] or 'the model':<36}{error:>20}{time:>20}{memory:>20}")
    lines += wrapped("remedy: ", document["remedy"]) if document["remedy"] else []
    lines.append(f"written to {document['written']}" if document["written"] else "not written")
    change = f"\n{document['difference']}" if document["difference"] else ""
    return "\n".join([*lines, change])


def _parser() -> Parser:
    parser = Parser(
        prog="verify upgrade",
        description="Replace the attention code of your own PyTorch model with flash attention, check that outputs and gradients stay the same, and measure both models. The service is not changed.",
        epilog="FACTORY takes no arguments and returns (model, inputs); inputs is a tuple of arguments or a mapping of "
        "keywords. Exit codes: 0 same results, 1 same results and no gain, 2 different results, "
        "3 could not be checked, 64 wrong usage.",
        hint="verify upgrade --help",
    )
    parser.add_argument(
        "model", metavar="MODULE:FACTORY", help="the function that makes the model; FILE.py:FACTORY works too"
    )
    parser.add_argument("--device", help="cpu, cuda:0 ... (default: the first GPU, else the CPU)")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="convert the model and its inputs to this type first (default: leave them)"
    )
    parser.add_argument(
        "--diff", action="store_true", help="print the change to the module's source that upgrades the model"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="write the upgraded module to the folder of the original, as NAME_flash.py, if its results are the same and flash kernels compute it",
    )
    parser.add_argument("--json", action="store_true", help="print the whole document on standard output")
    return parser


def _refuse(problem: str, hint: str) -> int:
    sys.stderr.write(f"error: {problem}\n\nhint: {hint}\n")
    return EXIT_CODES["error"]
