"""Options that several commands share, the request that they make, and the question before hosts are changed."""

import getpass
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml

from provision.core.errors import UsageError
from provision.core.folders import default_inventory, logs_folder
from provision.core.models.invocation import Invocation
from provision.core.models.settings import OPTIONS
from provision.core.tables import own_table
from provision.fleet.inventory.settings import PREFIX
from provision.pipeline import Batching, CommandRequest
from provision.pipeline.runner import read_inventory
from provision.report.layout import fold_names

RunT = TypeVar("RunT", bound=Callable[..., int])
LOGS = logs_folder()
BecomeOption = Annotated[
    bool,
    typer.Option(
        "--ask-become-pass",
        "-K",
        help="Ask once for the sudo password of the hosts, and use sudo there (as ansible_become: true).",
    ),
]
VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Print every detail on standard error, line by line, instead of a table."),
]
WhatIfOption = Annotated[
    str | None,
    typer.Option(
        "--what-if",
        metavar="DESCRIPTION",
        help="Plan for a host that you describe, such as 8xH100, or 'gpu=H100x8 driver=580.95.05 os=ubuntu-24.04 arch=x86_64'.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
RefreshOption = Annotated[
    bool,
    typer.Option("--refresh", help="Resolve the dependencies again, instead of reusing the versions of earlier runs."),
]


def _inventory(text: str) -> Path:
    """Return the path of an inventory; an empty one would mean the working folder, and is refused."""
    if not text:
        raise typer.BadParameter("it is empty: give a file or a folder, or leave it out for this machine")
    return Path(text)


InventoryOption = Annotated[
    Path | None,
    typer.Option(
        "--inventory",
        "-i",
        parser=_inventory,
        metavar="PATH",
        help="Ansible inventory, a file or a folder. Default: this machine. If Firstlight was installed as a package: ~/.config/firstlight/inventory, if it exists.",
    ),
]


YesOption = Annotated[
    bool,
    typer.Option(
        "--yes", "-y", help="Do not ask for confirmation. Without a terminal nothing is asked, and the command runs."
    ),
]


_KINDS: dict[str, Any] = {
    "text": str | None,
    "texts": list[str] | None,
    "path": Path | None,
    "flag": bool,
    "choice": bool | None,
}
"""Types of options by their names in options.toml."""


def _option(name: str, kind: Any, default: bool | None = None) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _options(group: str) -> Iterator[Parameter]:
    """Yield the options of a group of options.toml."""
    for name, entry in own_table(Path(__file__).with_name("options.toml"))[group].items():
        kind, names = entry.get("kind", "text"), entry.get("names", [OPTIONS.get(name, f"--{name.replace('_', '-')}")])
        words = {key: value for key, value in entry.items() if key not in ("kind", "names")}
        yield _option(name, Annotated[_KINDS[kind], typer.Option(*names, **words)], False if kind == "flag" else None)


_REBOOT = tuple(_options("restarting"))
_PRINT = _option("as_json", JsonOption, default=False)
INVENTORY, VERBOSE = _option("inventory", InventoryOption), _option("verbose", VerboseOption, default=False)
BECOME = _option("ask_become_pass", BecomeOption, default=False)
HOSTS = (INVENTORY, *_options("hosts"), BECOME, VERBOSE)
"""Options of every command that works on hosts."""
MODELS = (*HOSTS, *_options("planning"))
"""Those that affect which versions are planned, and for which model."""
DRIVERS = (*MODELS, *_REBOOT)
"""Those that affect drivers."""
SERVICE = (*MODELS, *_options("listening"))
"""Those that affect the start of a service."""
PLANNING = (*SERVICE, *_REBOOT)
BUNDLE = tuple(_options("staging"))
"""Those that replace the network."""
STAGING = (*PLANNING, _option("refresh", RefreshOption, default=False), *BUNDLE)
"""Options of commands that plan, and fetch what is planned."""
PRINTED = (_PRINT,)
BATCHED = (*STAGING, *_options("batching"))
"""Options of a command that may change its hosts batch by batch."""
CHANGED = (BECOME, _PRINT)
"""Options of commands on a whole inventory that may need sudo, and print a document."""


def takes(*before: Parameter, after: Sequence[Parameter] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command options in place of its `**options`, from which typer reads them.

    Args:
        before: Options that come before its own.
        after: Options that come after its own.
    """

    def take(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        listed = [*before, *(each for each in own if each.kind != each.VAR_KEYWORD), *after]
        command.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
        return command

    return take


def command(
    group: typer.Typer, request: str, *before: Parameter, after: Sequence[Parameter] = (), name: str | None = None
) -> Callable[[RunT], RunT]:
    """Return a decorator that adds a function to a group of commands. Its docstring is the help, and it returns the exit code.

    It is called with the request that options make, and with its own options.

    Args:
        request: The name of the request.
        before: Options of the request that come before its own.
        after: Options of the request that come after its own.
        name: The name of the command, where it is not that of the function.
    """

    def add(run: RunT) -> RunT:
        _, *own = inspect.signature(run, eval_str=True).parameters.values()

        def typed(**options: Any) -> None:
            given = {each.name: options.pop(each.name) for each in own}
            raise typer.Exit(run(asked(request, **options), **given))

        typed.__name__, typed.__doc__ = run.__name__, run.__doc__
        listed = [*before, *(each.replace(kind=Parameter.KEYWORD_ONLY) for each in own), *after]
        typed.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
        group.command(name)(typed)
        return run

    return add


def asked(
    command: str,
    *,
    inventory: Path | None = None,
    limit: str | None = None,
    verbose: bool = False,
    ask_become_pass: bool = False,
    as_json: bool = False,
    refresh: bool = False,
    bundle: Path | None = None,
    trust: str | None = None,
    older_bundle: bool = False,
    batch: str | None = None,
    max_fail: str | None = None,
    assignments: Sequence[str] | None = None,
    **settings: Any,
) -> CommandRequest:
    """Return a command as the pipeline reads it; ask for the sudo password where that is requested.

    Args:
        command: The name of the command. The options that follow are those above.
        assignments: Settings of hosts as `NAME=VALUE`.
        **settings: Settings of hosts by name; those that are None are left out.

    Raises:
        UsageError: The options contradict one another, or no password can be read.
    """
    of_bundle = {"--trust": (trust, "is the key of a bundle"), "--older-bundle": (older_bundle, "accepts a bundle")}
    for option, (value, use) in of_bundle.items():
        if value and bundle is None:
            raise UsageError(
                f"{option} {use}, and there is no --bundle", hint=f"add --bundle FILE, or leave {option} out"
            )
    given = {name: value for name, value in settings.items() if value is not None}
    assigned = _assigned(assignments or ())
    if twice := sorted(given.keys() & assigned.keys()):
        raise UsageError(
            f"`{twice[0]}` is set twice: by {OPTIONS[twice[0]]} and by --set", hint="leave one of the two out"
        )
    try:
        password = getpass.getpass("sudo password on the hosts: ") if ask_become_pass else None
    except EOFError:
        raise UsageError(
            "no password could be read: standard input has ended", hint="run it where you can type, without a pipe"
        ) from None
    flags = {"-K": ask_become_pass, "--refresh": refresh, "--older-bundle": older_bundle}
    named = {"--bundle": bundle, "--trust": trust, "--batch": batch, "--max-fail": max_fail}
    options = {OPTIONS[name]: value for name, value in given.items()} | named
    options |= {name: True for name, is_on in flags.items() if is_on}
    typed = {name: None if value is True else str(value) for name, value in options.items() if value is not None}
    return CommandRequest(
        command=command,
        inventory=inventory or default_inventory(),
        limit=limit,
        overrides=given | assigned,
        become_password=password,
        refresh=refresh,
        bundle=bundle,
        trust=trust,
        older_bundle=older_bundle,
        batching=Batching.parse(batch, max_fail),
        logs=LOGS,
        verbose=verbose,
        as_json=as_json,
        arguments=tuple(sys.argv[1:]),
        invocation=Invocation(
            inventory=None if inventory is None else str(inventory),
            limit=limit,
            options=typed,
            settings=tuple(assignments or ()),
        ),
    )


def _assigned(assignments: Sequence[str]) -> dict[str, Any]:
    """Return settings by name from `NAME=VALUE`; a value is read as in an inventory file.

    Raises:
        UsageError: One has no value, or is the prefix.
    """
    assigned = {}
    for text in assignments:
        name, _, value = text.partition("=")
        try:
            # YAML would read an address such as `::` as a mapping.
            read = value if value.endswith("::") else yaml.safe_load(value)
        except yaml.YAMLError:  # text such as `>=0.30`, which a file has in quotes
            read = value
        if read is None:
            raise UsageError(f"`--set {text}` has no value", hint="write --set NAME=VALUE, such as --set port=8001")
        assigned[name.replace("-", "_").removeprefix(PREFIX)] = read
    if "prefix" in assigned:
        text = "`prefix` cannot be given by --set: commands that follow would act on the default installation"
        raise UsageError(text, hint=f"write {PREFIX}prefix into the inventory")
    return assigned


def refuse_with(option: str, **others: Any) -> None:
    """Refuse options that have no effect together with another one.

    Raises:
        UsageError: One of them was given.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in others.items() if value is not None]
    if given:
        raise UsageError(
            f"{' and '.join(given)} selects hosts of an inventory, and {option} uses no inventory",
            hint=f"leave out {' and '.join(given)}, or {option}",
        )


def require_consent(request: CommandRequest, change: str, *, yes: bool) -> None:
    """Ask whether a command may change its hosts; without a terminal there is nobody to ask, and it goes on.

    `change` says what it does, up to the names of the hosts.

    Raises:
        typer.Exit: The answer is no.
    """
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    names = fold_names([host.name for host in read_inventory(request).hosts])
    if not consent(f"{change} {names}?"):
        typer.echo("nothing was changed", err=True)
        raise typer.Exit(1)


def consent(what: str) -> bool:
    """Ask on standard error, and return whether the answer is yes; the end of standard input means no.

    Raises:
        KeyboardInterrupt: The person pressed Ctrl-C.
    """
    sys.stderr.write(f"{what} [y/N]: ")
    sys.stderr.flush()
    try:
        answer = sys.stdin.readline()
    except BaseException:
        sys.stderr.write("\n")
        raise
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    return answer.strip().lower() in ("y", "yes")
