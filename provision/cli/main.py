"""The commands: read options, call the pipeline, exit with its code. No decision is made here."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.completion import completion_init, get_completion_script  # type: ignore[attr-defined]

from provision import __version__
from provision.cli import exit_status, logs, verify
from provision.cli.groups import HELP, ProductGroup, help_of
from provision.cli.options import (
    BATCHED,
    BUNDLE,
    DRIVERS,
    HOSTS,
    PLANNING,
    PRINTED,
    SERVICE,
    STAGING,
    BecomeOption,
    InventoryOption,
    JsonOption,
    WhatIfOption,
    YesOption,
    asked,
    command,
    consent,
    refuse_with,
    require_consent,
)
from provision.core import features
from provision.core.errors import Exit, UsageError
from provision.core.folders import as_typed, product_path
from provision.core.requirements_file import differences
from provision.pipeline import CommandRequest, commands, diagnosis, operations
from provision.pipeline import chat as chat_pipeline
from verify.doctor import cli as doctor_cli
from verify.printable import guard_streams

COMPLETE = "_FIRSTLIGHT_COMPLETE"
"""The variable by which a shell requests completions; typer derives its name from the program."""

app = typer.Typer(
    name="firstlight",
    cls=ProductGroup,
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": HELP},
    epilog="`help COMMAND` shows the options of a command, `help` adds the exit codes to this list, and `help --all` shows everything. In a clone, `test` runs its tests and `docs` writes its generated pages.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"firstlight {__version__}")
        raise typer.Exit


@app.callback()
def firstlight(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Turn bare GPU servers into verified vLLM endpoints."""


@app.command()
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print the completion script of a shell; to use it: eval "$(./firstlight completion bash)"."""
    typer.echo(get_completion_script(prog_name="firstlight", complete_var=COMPLETE, shell=shell))


app.add_typer(verify.app, name="verify")
app.add_typer(logs.app, name="logs")


@app.command()
def chat(
    *,
    host: Annotated[
        str | None,
        typer.Argument(
            metavar="HOST",
            help="A host that serves, or a gateway. Not needed if there is one host or one gateway. A single argument that names no host is the prompt.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="The prompt. Without it, each line that you type is a prompt, until Ctrl-D."
        ),
    ] = None,
    inventory: InventoryOption = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", min=1, help="The longest answer, in tokens.")
    ] = 256,
    ask_become_pass: BecomeOption = False,
) -> None:
    """Send a prompt to the model of a host, and print the answer as it is generated."""
    request = asked("chat", inventory=inventory, ask_become_pass=ask_become_pass)
    raise typer.Exit(chat_pipeline.chat(request, host, prompt, _read, max_tokens=max_tokens))


def _read() -> str | None:
    """Return the next line of standard input; None at its end."""
    is_typed = sys.stdin.isatty()
    try:
        return input("> " if is_typed else "")
    except EOFError:
        sys.stderr.write("\n" if is_typed else "")
        return None


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to: a new one, or an empty one.")],
) -> None:
    """Write an example inventory with comments, for you to edit."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"`{folder}` exists already", hint="name a new folder, or an empty one")
    shutil.copytree(product_path("inventory/example"), folder, dirs_exist_ok=True)
    hosts, named = folder / "hosts.yml", shlex.quote(str(folder))
    hosts.write_text(as_typed(hosts.read_text(encoding="utf-8").replace("inventory/mysite", named)), encoding="utf-8")
    typer.echo(f"{folder}/ is written: enter your hosts in hosts.yml")
    typer.echo(f"./firstlight plan -i {named}")


@app.command("self-check")
def self_check() -> None:
    """Compare the installed Python packages of this tool with the versions that it was tested with."""
    found = differences(product_path("requirements/run.txt").read_text(encoding="utf-8"))
    for line in found:
        typer.echo(line)
    if found:
        raise typer.Exit(Exit.RED)
    typer.echo("all packages are those that this release was tested with")


for feature in features.modules("commands"):
    feature.add_to(app)


@command(app, "provision", *BATCHED, after=PRINTED)
def provision(
    request: CommandRequest,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Probe and plan; change no host.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Then measure the service under load, as `verify load` does.")
    ] = False,
) -> int:
    """Install the planned versions, check the hosts, start the service, and check its first answers."""
    if measure and (dry_run or request.as_json):
        raise UsageError("`--measure` prints tables after the summary of a run", hint="./firstlight verify load --json")
    if dry_run:
        if request.batching is not None:
            raise UsageError("`--dry-run` changes no host, so `--batch` has no effect", hint="leave one of the two out")
        return commands.plan(request, explain=False)
    code = commands.run(request)
    return features.first("measured", request) or code if measure and code == Exit.OK else code


@command(app, "probe", *HOSTS, after=PRINTED)
def probe(request: CommandRequest) -> int:
    """Detect the hardware and software of each host; no host is changed."""
    return commands.probe(request)


@command(app, "plan", *PLANNING, after=PRINTED)
def plan(
    request: CommandRequest,
    *,
    what_if: WhatIfOption = None,
    facts: Annotated[
        list[Path] | None,
        typer.Option(
            "--facts",
            metavar="FILE",
            help="Plan for hosts whose facts this file has, as `probe --json` prints them; no host is contacted.",
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the verdict of every rule on every candidate.")
    ] = False,
    why_not: Annotated[
        str | None,
        typer.Option(
            "--why-not", metavar="RELEASE", help="Show why one release fits or does not, such as vllm==0.33.0."
        ),
    ] = None,
) -> int:
    """Choose the versions for each host, with the reasons; no host is changed."""
    if what_if is None and not facts:
        return commands.plan(request, explain=explain, why_not=why_not)
    option = "--facts" if what_if is None else "--what-if"
    refuse_with(option, inventory=request.invocation.inventory, limit=request.limit)
    return commands.plan_recorded(request, what_if=what_if, files=tuple(facts or ()), explain=explain, why_not=why_not)


@command(app, "stage", *STAGING, after=PRINTED)
def stage(request: CommandRequest) -> int:
    """Lock the chosen versions, and fetch their files to this machine; no host is changed."""
    return commands.run(request, last="stage")


@command(app, "install", *STAGING, after=PRINTED)
def install(request: CommandRequest) -> int:
    """Install the planned versions on the hosts, without starting the service."""
    return commands.run(request, last="install")


@command(app, "drivers", *DRIVERS, after=PRINTED)
def drivers(request: CommandRequest) -> int:
    """Install the planned drivers, and check that they run; nothing else is installed.

    The model and the versions that you name decide which driver is planned. They change nothing else.
    """
    return commands.run_drivers(request)


@command(app, "serve", *SERVICE, *BUNDLE, after=PRINTED)
def serve(request: CommandRequest) -> int:
    """Start the installed service, and check its answers.

    The command serves the model of --model, else that of the inventory, else the built-in one. After `stop`, repeat the options of
    your last run, such as --model, --vllm and --port. Nothing is installed or sent: the planned versions and the model must be on the host already. Other settings and
    options, such as the attention back end or the port, may change. --driver affects only the plan.
    """
    return operations.serve(request)


@command(app, "status", *HOSTS, after=PRINTED)
def status(request: CommandRequest) -> int:
    """Show what is installed and serving on the hosts."""
    return operations.status(request)


@command(app, "stop", *HOSTS, after=PRINTED)
def stop(request: CommandRequest, *, yes: YesOption = False) -> int:
    """Stop the service until the next serve, provision or reboot."""
    require_consent(request, "Stop the service, until the next serve, provision or reboot, on", yes=yes)
    return operations.stop(request)


@command(app, "rollback", *HOSTS, after=PRINTED)
def rollback(
    request: CommandRequest,
    *,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="DIGEST",
            help="Digest of the release to return to, 16 hexadecimal digits. `./firstlight status` lists the digests on each host. Default: the previous release.",
        ),
    ] = None,
) -> int:
    """Switch back to the previous release (environment, model, settings), restart, and check its answers."""
    return operations.rollback(request, to=to)


@command(app, "uninstall", *HOSTS, after=PRINTED)
def uninstall(
    request: CommandRequest,
    *,
    drivers: Annotated[
        bool,
        typer.Option("--drivers", help="Also remove drivers, toolkits and repositories that Firstlight installed."),
    ] = False,
    yes: YesOption = False,
) -> int:
    """Remove the service and all files of Firstlight from the hosts.

    OS packages that were installed stay on the hosts, and drivers unless you add --drivers. Logs and downloaded files stay on this
    machine. The command lists what stays.
    """
    what = "the service, its models and all other files of Firstlight"
    if drivers:
        what = "the service, its models, the drivers that Firstlight installed, and all its other files"
    require_consent(request, f"Remove {what} from", yes=yes)
    return operations.uninstall(request, drivers=drivers)


@app.command()
def doctor(
    *,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Log files, or any other text; - reads standard input.")
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(
            "--limit",
            "-l",
            metavar="HOST",
            help="Read the logs and state of this host instead of files. Only --apply changes the host.",
        ),
    ] = None,
    inventory: InventoryOption = None,
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="Findings to print for each file.")] = 3,
    apply: Annotated[
        bool, typer.Option("--apply", help="With --limit: repair the first cause, if that is safe and you confirm it.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --apply: do not ask. --apply never restarts a host.")
    ] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 if something was found, for scripts.")
    ] = False,
    ask_become_pass: BecomeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the causes of failures in logs of any program, or on a live host."""
    if bool(files) == (limit is not None):
        raise UsageError("give either files or --limit", hint="./firstlight doctor server.log")
    if files:
        if apply or yes or inventory:
            raise UsageError("--apply, --yes and -i are for --limit", hint="./firstlight doctor --limit NAME --apply")
        raise typer.Exit(doctor_cli.run(files, top=top, as_json=as_json, exit_code=exit_code))
    request = asked("doctor", inventory=inventory, limit=limit, ask_become_pass=ask_become_pass, as_json=as_json)
    code = diagnosis.diagnose_host(
        request, top=top, apply=apply, agree=lambda what: yes or consent(what), exit_code=exit_code
    )
    raise typer.Exit(code)


@app.command("help")
def show_help(
    context: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="The command. Default: the list of all commands.")
    ] = None,
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Show all commands and options, including those for maintainers.")
    ] = False,
) -> None:
    """Show the help of a command; without a command, list all commands and exit codes."""
    root = context.find_root()
    typer.echo(help_of(root, words or (), everything=everything))
    if not words:
        formatter = root.make_formatter()
        with formatter.section("Exit codes"):
            formatter.write_dl([*exit_status.MEANINGS.items()])
        typer.echo("\n" + formatter.getvalue(), nl=False)


def main() -> None:
    """Run the command that was typed."""
    if COMPLETE in os.environ:
        completion_init()
    # Records and outputs must never be writable for everybody, also if the caller's umask is 0, as that of some services.
    os.umask(os.umask(0) | 0o002)
    # A closed standard input, as by `<&-`, is like an empty one.
    sys.stdin = sys.stdin or Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - open as long as the program runs
    guard_streams(as_typed)
    exit_status.run(lambda: app(prog_name="firstlight"))
