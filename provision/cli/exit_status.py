"""How every command ends: with an exit code of the contract, and for expected failures with text and hint, without a traceback."""

import contextlib
import errno
import json
import os
import sys
import traceback
from collections.abc import Callable

import typer

from provision.cli.options import LOGS
from provision.core.errors import Exit, FirstlightError, UsageError
from provision.core.redaction import redact, scrub
from provision.core.run_folder import account

MEANINGS = {
    "0": "Success. For a run: green or amber.",
    "1": "Red: a host failed or was not reached. For `drift` and `doctor --exit-code`: something was found.",
    "2": "The command line or the inventory is wrong.",
    "3": "Another run works on a host.",
    "4": "No combination of versions fits a host.",
    "130": "Interrupted.",
    "verify": "0 ok, 1 warning, 2 failed, 3 could not be checked (as monitoring plug-ins do), 64 wrong usage.",
}
"""Exit codes as `help` prints them."""
VERIFY_EXITS = {1: 3, 2: 64}
"""Exit codes of `verify`, where 1 is a warning and 2 a failed check: 3 means that it could not check, 64 wrong usage."""
HOMELESS = "Could not determine home directory."
"""The text of the error that pathlib raises without HOME and without an entry in the password file."""
JSON = "--json"


def run(command: Callable[[], None]) -> None:
    """Run a command.

    Raises:
        SystemExit: Always, with the exit code.
    """
    try:
        command()
    except BrokenPipeError:
        # The reader closed the pipe; Python must not complain again at exit.
        _silence_stdout()
        raise SystemExit(Exit.RED) from None
    except (KeyboardInterrupt, SystemExit) as end:
        cause = getattr(end.__context__, "__cause__", None)  # Typer makes an exit of its own of Ctrl-C
        if isinstance(end, KeyboardInterrupt) or isinstance(cause, KeyboardInterrupt):
            sys.stderr.write("interrupted\n")
            _print_json(FirstlightError("interrupted"), Exit.INTERRUPTED)
            raise SystemExit(Exit.INTERRUPTED) from None
        if isinstance(end.__context__, typer.Exit) or not isinstance(end.code, int):
            raise
        code = _code(end.code)
        # Typer refused the command, and printed the error already.
        if describe := getattr(end.__context__, "format_message", None):
            _print_json(UsageError(describe()), code)
        raise SystemExit(code) from None
    except Exception as error:  # noqa: BLE001 - each is reported: an expected failure by its text, any other as our fault with its trace
        raise SystemExit(_report(error)) from None


def _report(error: Exception) -> int:
    """Print an error on standard error, with `--json` also as a document on standard output, and return the exit code."""
    known = error if isinstance(error, FirstlightError) else _expected(error)
    if known is None:
        sys.stderr.write(redact("".join(traceback.format_exception(error))))
        hint = "this is a fault of Firstlight: report it with its trace"
        known = FirstlightError(f"{type(error).__name__}: {error}", hint=hint)
    else:
        sys.stderr.write(redact(known.render()) + "\n")
    code = _code(known.exit_code)
    _print_json(known, code)
    if getattr(error, "filename", True) is None:
        _silence_stdout()  # it may be what cannot be written
    return code


def _print_json(error: FirstlightError, code: int) -> None:
    """Print the document of an error, where `--json` was given."""
    if JSON in sys.argv[1:]:
        fields = {"text": error.text, "hint": error.hint, "cause": error.cause}
        with contextlib.suppress(OSError):
            sys.stdout.write(json.dumps(scrub({"error": fields, "exit_code": code}), indent=2) + "\n")
            sys.stdout.flush()


def _silence_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _expected(error: Exception) -> FirstlightError | None:
    """Return an error of this account, or of this machine's files or disk, as an expected failure; None for any other."""
    if isinstance(error, RuntimeError) and str(error) == HOMELESS:
        return UsageError(f"this account ({account()}) has no home folder", hint="set HOME to a folder of yours")
    if not isinstance(error, OSError):
        return None
    if error.filename is not None:
        path = os.fsdecode(error.filename)
        own = path.startswith(str(LOGS))
        hint = "runs are kept there; FIRSTLIGHT_LOGS=FOLDER selects another folder" if own else None
        return FirstlightError(f"`{path}`: {error.strerror}", hint=hint)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    text = f"output, or a file of `{LOGS}` or another folder, could not be written: {error.strerror}"
    return FirstlightError(text, hint="free some space, and run it again")


def _code(code: int) -> int:
    """Return an exit code on the scale of the command."""
    return VERIFY_EXITS.get(code, code) if sys.argv[1:2] == ["verify"] else code
