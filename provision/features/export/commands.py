"""`./firstlight export`: what a fleet serves, for other systems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from provision.cli.groups import HelpGroup
from provision.cli.options import MODELS, asked, takes

app = typer.Typer(
    cls=HelpGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Write files with which another system serves the same models.",
)


@app.command()
@takes(*MODELS)
def kubernetes(
    *,
    kind: Annotated[
        Literal["production-stack", "lws", "kserve", "endpoints"],
        typer.Option(
            "--format",
            help="production-stack: values of the chart vllm-stack; lws: a LeaderWorkerSet for a model over several hosts; kserve: an LLMInferenceService; endpoints: the hosts as they are, for llm-d-router.",
        ),
    ] = "production-stack",
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the files; existing ones are kept.")
    ] = Path("kubernetes"),
    digest: Annotated[
        str | None,
        typer.Option("--digest", metavar="sha256:HEX", help="Digest of the image of the planned vLLM release."),
    ] = None,
    allow_tag: Annotated[
        bool, typer.Option("--allow-tag", help="Name the image by its tag alone, which its makers can move.")
    ] = False,
    facts: Annotated[
        list[Path] | None,
        typer.Option(
            "--facts",
            metavar="FILE",
            help="Facts of the hosts, as `probe --json` prints them: no host is contacted. Repeatable.",
        ),
    ] = None,
    **options: Any,
) -> None:
    """Write files for Kubernetes, or for a router, that serve the models of the hosts; no host is changed."""
    from provision.features.export.export import export as write

    request = asked("export", **options)
    raise typer.Exit(write(request, kind, output, recorded=facts or (), digest=digest, allow_tag=allow_tag))


def add_to(program: typer.Typer) -> None:
    """Add the command to the program."""
    program.add_typer(app, name="export")
