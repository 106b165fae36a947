"""Command `verify upgrade MODULE:FACTORY`: upgrade a model's attention, prove it equal, and measure the gain."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from verify.arguments import Parser
from verify.records import EXIT_CODES, CheckResult
from verify.report import wrapped

DTYPES = ("float32", "bfloat16", "float16")


def main(arguments: list[str]) -> int:
    """Return 0: the upgrade is equal; 1: equal without a gain; 2: it differs and is not saved; 3: unknown."""
    options = _parser().parse_args(arguments)
    try:
        import torch
    except ImportError as error:
        return _refuse(f"torch does not import: {error}", "run it with the Python of an environment that has torch")
    from verify import upgrade

    try:
        own = upgrade.load(options.model)
        device = options.device or _device()
        own = own.to(device) if options.dtype is None else own.to(device, getattr(torch, options.dtype))
        flash, names = upgrade.upgraded(own, discard_weights=options.discard_weights)
        measured = upgrade.compare(own, flash)
    except upgrade.UnusableError as error:
        return _refuse(str(error), "FACTORY takes nothing and returns (model, inputs): verify upgrade --help")
    except Exception as error:  # noqa: BLE001 - the module, the model and its inputs are somebody's own, and raise anything
        traceback.print_exc()
        problem = f"the model could not be compared: {type(error).__name__}: {error}"
        return _refuse(problem, "it must run forward and backward by itself, on that device and in that precision")
    outcome = upgrade.evaluate(measured, upgrade.kernels_used(flash), same=upgrade.same_state(own, flash))
    if outcome.status in ("ok", "warn"):
        figures = (*outcome.figures, *upgrade.timed(own, flash, device))
        outcome = CheckResult(outcome.status, outcome.reason, figures, outcome.evidence, outcome.remedy)
        try:
            if options.save:
                _save(flash.model, options.save)
        except OSError as error:
            return _refuse(f"{options.save} cannot be written: {error.strerror}", "name another file with --save")
    document = {"model": options.model, "device": device, "upgraded": names, **outcome.as_json()}
    document["saved"] = str(options.save) if options.save and outcome.status in ("ok", "warn") else None
    sys.stdout.write(json.dumps(document, indent=2) + "\n" if options.json else render(document))
    return EXIT_CODES[outcome.status]


def render(document: dict[str, Any]) -> str:
    """Return the verdict, the kernels in use, and both models side by side as text."""
    kernels = sorted({kernel for kernel in document["evidence"]["kernels"].values() if kernel})
    lines = wrapped(f"{document['status']}: ", document["reason"])
    lines.append(f"upgraded {len(document['upgraded'])} modules, computed by {' and '.join(kernels) or 'nothing'}")
    values = {figure["name"]: figure for figure in document["figures"]}
    for name, figure in values.items():
        what, _, side = name.partition(", ")
        if side == "original":
            after = values[f"{what}, upgraded"]
            change = f"{after['value'] / figure['value']:.2f} of it" if figure["value"] else "-"
            lines.append(f"{what:<22}{figure['value']:>12.4g} {figure['unit']:<4}{after['value']:>12.4g}  {change}")
    lines += wrapped("remedy: ", document["remedy"]) if document["remedy"] else []
    lines.append(f"saved to {document['saved']}" if document["saved"] else "not saved")
    return "\n".join([*lines, ""])


def _parser() -> Parser:
    parser = Parser(
        prog="verify upgrade",
        description="Upgrade the attention of a model of yours, prove that outputs and gradients stay, measure both.",
        epilog="FACTORY takes nothing and returns (model, inputs); inputs is a tuple of arguments or a mapping of "
        "keywords. exit codes: 0 the same, 1 the same and nothing gained, 2 different, 3 cannot tell, 64 usage",
        hint="verify upgrade --help",
    )
    parser.add_argument("model", metavar="MODULE:FACTORY")
    parser.add_argument("--device", help="cpu, cuda:0 ... (default: the first GPU, else the CPU)")
    parser.add_argument("--dtype", choices=DTYPES, help="convert model and inputs to it first (default: as they are)")
    parser.add_argument(
        "--discard-weights", action="store_true", help="return None for attention weights that the model asks for"
    )
    parser.add_argument("--save", metavar="FILE", type=Path, help="torch.save the upgraded model, unless it differs")
    parser.add_argument("--json", action="store_true", help="the whole document on stdout")
    return parser


def _device() -> str:
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def _save(model: Any, path: Path) -> None:
    """Write a file atomically."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save(model, file)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _refuse(problem: str, hint: str) -> int:
    sys.stderr.write(f"error: {problem}\n\nhint: {hint}\n")
    return EXIT_CODES["error"]
