"""Programs as the modules of this product run them. Runs on any Python from 3.8 on."""

from __future__ import annotations

import os
import subprocess

ABSENT = 127
"""Status of a program that does not exist, as a shell has it."""
TIMED_OUT = 124


def run(*words, timeout_s=None, settings=None, pass_fds=()):
    """Run a program with messages in English.

    Args:
        words: The program and its arguments.
        timeout_s: Seconds after which the program is ended.
        settings: Environment variables to set; None as a value removes one.
        pass_fds: File descriptors that the program inherits.

    Returns:
        Status, standard output, and standard output followed by standard error.
    """
    # A login without a profile may have no folder of administrator's programs in its PATH.
    variables = dict(os.environ, LC_ALL="C", PATH=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    variables.update(settings or {})
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={name: value for name, value in variables.items() if value is not None},
            timeout=timeout_s,
            pass_fds=pass_fds,
            check=False,
        )
    except OSError as error:
        return ABSENT, "", f"{words[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return TIMED_OUT, "", f"{words[0]}: no answer within {timeout_s} s"
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    return done.returncode, out, out + err


def last_lines(text, count):
    """Return the last lines of an output as one line."""
    return " ".join(text.strip().splitlines()[-count:])
