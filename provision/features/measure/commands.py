"""`./firstlight verify compare` and `verify upgrade`: what a choice gains, and the upgrade of a user's own model."""

import os
import subprocess
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from provision.cli.options import CHANGED, HOSTS, JsonOption, asked, takes
from provision.cli.verify import PrefixOption, app
from provision.core.errors import UsageError
from provision.core.folders import cache_folder, tools_folder
from provision.core.install_paths import default_prefix
from provision.features.measure.compare import compare as compare_choices
from provision.phases.verify.tool import build_zipapp


class Mode(StrEnum):
    """With and without a compiler."""

    EAGER = "eager"
    COMPILED = "compiled"


@takes(*HOSTS, after=CHANGED)
def compare(
    *,
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", metavar="BACKEND", help="An attention back end. Give the option twice."),
    ] = None,
    mode: Annotated[
        list[Mode] | None,
        typer.Option("--mode", metavar="MODE", help="Instead of back ends: --mode eager --mode compiled."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="MEASURE=VALUE",
            help="Goal for a measure with the second choice, as a change or a value: ttft=-40%, ttft=30ms, output=1400.",
        ),
    ] = None,
    input_tokens: Annotated[
        int | None, typer.Option("--input-tokens", metavar="N", min=1, help="Length of the prompts. Default: 128.")
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option("--output-tokens", metavar="N", min=1, help="Length of the answers. Default: 16.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", metavar="N", min=1, help="Requests at once. Default: 1, 4 and 16.")
    ] = None,
    prefix: PrefixOption = None,
    **options: Any,
) -> None:
    """Compare two attention back ends, or eager and compiled mode, under load; then restore the service."""
    named = tuple(dict.fromkeys(backend or mode or ()))
    if len(named) != 2 or (backend and mode):
        raise UsageError(
            f"two different choices are compared, {len(named)} given",
            hint="./firstlight verify compare --backend FLASH_ATTN --backend TRITON_ATTN",
        )
    option = "--backend" if backend else "--mode"
    words = [word for name in named for word in (option, name)]
    words += [word for text in target or () for word in ("--target", text)]
    load = {"--input-tokens": input_tokens, "--output-tokens": output_tokens, "--concurrency": concurrency}
    words += [word for name, value in load.items() if value is not None for word in (name, str(value))]
    raise typer.Exit(compare_choices(asked("verify", prefix=prefix, **options), words=words))


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
    app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})(
        upgrade
    )
