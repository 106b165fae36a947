"""What modules have in common: programs, files, and why one fails. Runs on any Python from 3.8 on."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time

TIMED_OUT = 124


class HostError(Exception):
    """What stands against what a module is to do: a text with values, a hint that helps, and what a program printed."""

    def __init__(self, text, hint=None, output=""):
        super().__init__(text)
        self.hint = hint
        self.output = output


def run(*words, timeout_s=None, settings=None, pass_fds=()):
    """Run a program with messages in English.

    Args:
        words: The program and its arguments.
        timeout_s: Seconds after which the program is ended.
        settings: Environment variables to set; None as a value removes one.
        pass_fds: File descriptors that the program inherits.

    Returns:
        Status as a shell has it, standard output, and standard output followed by standard error.
    """
    # A login without a profile may have no folder of administrator's programs in its PATH.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    variables = {**os.environ, "LC_ALL": "C", "PATH": path, **(settings or {})}
    environment = {name: value for name, value in variables.items() if value is not None}
    options = {"env": environment, "timeout": timeout_s, "pass_fds": pass_fds}
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False, **options)
    except OSError as error:
        return 127, "", f"{words[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return TIMED_OUT, "", f"{words[0]}: no answer within {timeout_s} s"
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    return done.returncode, out, out + err


def locked(descriptor):
    """Lock a file if nobody has it locked. Return whether this process has the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def take_turn(path, limit_s):
    """Wait for what an interrupted run left running, and return a descriptor of the file that is locked until it and its copies are closed."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor, deadline = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), time.monotonic() + limit_s
    os.fchmod(descriptor, 0o600)  # whoever may read a file may lock it, and earlier releases let everybody
    while not locked(descriptor):
        if time.monotonic() >= deadline:
            text = f"another installation has worked on {os.path.dirname(path)} for more than {limit_s} s"
            raise HostError(text, f"see what holds it: fuser -v {path}")
        time.sleep(0.2)
    return descriptor


def last_lines(text, count):
    """Return the last lines of an output as one line."""
    return " ".join(text.strip().splitlines()[-count:])


def read(path):
    """Return a file's text; None where there is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def differs(path, text, mode):
    """Return whether a file has another text or mode, or belongs to another account than this one."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return True
    return read(path) != text or (found.st_uid, found.st_mode & 0o777) != (os.geteuid(), mode)


def write(path, text, mode=0o644):
    """Write a file atomically. A private one is never readable by others, not even for a moment."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = path + ".new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(temporary, mode)
    os.replace(temporary, path)


def replace_link(path, target):
    """Point a symbolic link to a target atomically."""
    temporary = f"{path}.new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.replace(temporary, path)


def text_diff(path, before, after):
    """Return an entry of a module's `diff` for one file; None stands for no file."""
    return {"before_header": path, "after_header": path, "before": before or "", "after": after or ""}


def diff_result(module, entries):
    """Return the `diff` part of a module's result, where `--diff` asks for it."""
    return {"diff": entries} if module._diff and entries else {}  # noqa: SLF001 - Ansible's name for it
