"""`./firstlight verify compare`, `load` and `upgrade`: what a choice gains, the service under load, and the upgrade of a user's own model."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from provision.cli.options import HOSTS, PRINTED, JsonOption, asked, takes
from provision.cli.verify import PrefixOption, app
from provision.core.errors import UsageError
from provision.core.folders import cache_folder, tools_folder
from provision.core.install_paths import default_prefix
from provision.features.measure.compare import measure
from provision.phases.verify.tool import build_zipapp

InputOption = Annotated[
    int | None, typer.Option("--input-tokens", metavar="N", min=1, help="Length of the prompts. Default: 128.")
]
OutputOption = Annotated[
    int | None, typer.Option("--output-tokens", metavar="N", min=1, help="Length of the answers. Default: 16.")
]
ConcurrencyOption = Annotated[
    int | None, typer.Option("--concurrency", metavar="N", min=1, help="Requests at once. Default: 1, 4 and 16.")
]
LEAST_REQUESTS = 8
"""What `verify.pyz load` sends at least where a rate is named alone."""
LARGEST_DATASET = 64 << 20
"""Bytes of a file of prompts, which goes to each host; a few thousand conversations."""


@takes(*HOSTS, after=PRINTED)
def compare(
    *,
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", metavar="BACKEND", help="An attention back end. Give the option twice."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="MEASURE=VALUE",
            help="Goal for a measure with the second back end, as a change or a value: ttft=-40%, ttft=30ms, output=1400.",
        ),
    ] = None,
    input_tokens: InputOption = None,
    output_tokens: OutputOption = None,
    concurrency: ConcurrencyOption = None,
    prefix: PrefixOption = None,
    **options: Any,
) -> None:
    """Compare two attention back ends under load. The service restarts with each, and is then restored."""
    named = tuple(dict.fromkeys(backend or ()))
    if len(named) != 2:
        raise UsageError(
            f"two different back ends are compared, {len(named)} given",
            hint="./firstlight verify compare --backend FLASH_ATTN --backend TRITON_ATTN",
        )
    words = [word for name in named for word in ("--backend", name)]
    words += [word for text in target or () for word in ("--target", text)]
    words += _words(input_tokens=input_tokens, output_tokens=output_tokens, concurrency=concurrency)
    raise typer.Exit(measure(asked("verify", prefix=prefix, **options), "compare", words))


def _words(**given: float | None) -> list[str]:
    named = ((f"--{name.replace('_', '-')}", str(value)) for name, value in given.items() if value is not None)
    return [word for pair in named for word in pair]


@takes(*HOSTS, after=PRINTED)
def load(
    *,
    input_tokens: InputOption = None,
    output_tokens: OutputOption = None,
    concurrency: ConcurrencyOption = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", metavar="N", min=0.001, help="Requests per second, instead of some at once."),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option("--requests", metavar="N", min=1, help="Number of requests, with --rate or --concurrency."),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            "--dataset",
            metavar="FILE",
            help="Prompts and lengths of answers, instead of random prompts: a JSON file in the form of ShareGPT.",
        ),
    ] = None,
    prefix: PrefixOption = None,
    **options: Any,
) -> None:
    """Measure the running service under load, and compare with the last measurement of this load on each host."""
    if dataset and input_tokens:
        hint = "leave out --input-tokens"
        raise UsageError("the prompts of `--dataset` have their own lengths", hint=hint)
    if requests and not (rate or concurrency):
        raise UsageError("`--requests` belongs to --rate or --concurrency", hint="./firstlight verify load --rate 2")
    words = _words(
        input_tokens=input_tokens, output_tokens=output_tokens, concurrency=concurrency, rate=rate, requests=requests
    )
    prompts = _read(dataset) if dataset else None
    request = asked("verify", prefix=prefix, **options)
    words += ["--dataset", "-"] if prompts is not None else []
    lasting_s = (requests or LEAST_REQUESTS) / rate if rate else 0.0
    raise typer.Exit(measure(request, "load", words, prompts, lasting_s=lasting_s))


def _read(path: Path) -> str:
    """Return the text of a file of prompts. Raises UsageError where it cannot be read, or is too large for each host."""
    hint = "name a JSON file in the form of ShareGPT, or a part of it"
    try:
        if path.stat().st_size > LARGEST_DATASET:
            raise UsageError(f"`{path}` is larger than {LARGEST_DATASET >> 20} MiB", hint=hint)
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {error.strerror or error}", hint=hint) from None


def upgrade(
    context: typer.Context,
    python: Annotated[
        Path | None,
        typer.Option(
            "--python", metavar="PATH", help="A Python that has torch. Default: that of this machine's installation."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Replace the attention code of your own PyTorch model with flash attention, and compare results and speed; the service is not changed."""
    raise typer.Exit(upgrade_model([*context.args, *(["--json"] if as_json else [])], python))


def upgrade_model(arguments: Sequence[str], python: Path | None) -> int:
    """Run `verify upgrade` by a Python that has torch, without one that of this machine's installation, and return its exit code.

    Raises UsageError where there is no such Python.
    """
    if not arguments or {"-h", "--help"} & set(arguments):  # needs no torch
        found = Path(sys.executable)
    else:
        found = python or Path(default_prefix(uid=os.getuid(), home=str(Path.home())) / "current/bin/python")
    if not os.access(found, os.X_OK):
        raise UsageError(
            f"`{found}` does not exist or is no program: the upgrade needs a Python that has torch",
            hint="install one with ./firstlight provision, or name yours with --python",
        )
    tool = build_zipapp(tools_folder(cache_folder()) / "verify.pyz")
    return subprocess.run([found, str(tool), "upgrade", *arguments], check=False).returncode


def add_to(program: typer.Typer) -> None:
    """Add the commands to the group `verify`."""
    del program
    app.command()(compare)
    app.command()(load)
    app.command(
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
        options_metavar="FILE:FACTORY [OPTIONS]",
        epilog="The options for the model: ./firstlight verify upgrade --help",
    )(upgrade)
