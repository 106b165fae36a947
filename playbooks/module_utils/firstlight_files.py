"""Files as the modules of this product read and write them. Runs on any Python from 3.8 on."""

from __future__ import annotations

import os


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


def list_diff(title, before, after):
    """Return an entry of a module's `diff` for lists of lines."""
    return text_diff(title, "".join(f"{line}\n" for line in before), "".join(f"{line}\n" for line in after))


def diff_result(module, entries):
    """Return the `diff` part of a module's result, where `--diff` asks for it."""
    return {"diff": entries} if module._diff and entries else {}  # noqa: SLF001 - Ansible's name for it
