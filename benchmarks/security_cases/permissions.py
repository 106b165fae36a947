"""The modes of the files that commands and installations leave, with three umasks."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.security_cases.rows import Outcome, case, firstlight, outcome_of
from provision.fleet.ssh.known_hosts import add_known_key
from tests.install.conftest import make_site
from tests.pipeline.test_secrets import inventory
from tests.stage.test_bundle import make

GROUP = "permissions"
PRIVATE = (
    "cache/inventory/*",
    "config/firstlight/bundle.key",
    "*.tar.gz",
    "known_hosts",
    "host/firstlight/etc/service.env",
)
"""Files that only their owner may read."""
OTHERS, GROUP_AND_OTHERS = stat.S_IWOTH, stat.S_IWGRP | stat.S_IWOTH


def wrong_modes(folder: Path, *, unwanted: int, own: Iterable[str] = ()) -> Iterator[str]:
    """Yield files and folders that others may change, and private files that others may read."""
    without = {folder / name for name in own}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or path in without:
            continue
        mode, name = stat.S_IMODE(path.lstat().st_mode), path.relative_to(folder).as_posix()
        if path.is_file() and any(fnmatch(name, pattern) for pattern in PRIVATE) and mode & 0o077:
            yield f"{name} has mode {mode:o}, and is private"
        # a folder with the sticky bit is like /tmp
        elif mode & unwanted and not mode & stat.S_ISVTX:
            yield f"{name} has mode {mode:o}"


def _commands(folder: Path, umask: int, unwanted: int) -> Outcome:
    path = inventory(folder)
    done = [
        firstlight(*command, folder=folder, umask=umask)
        for command in (
            ("plan", "-i", str(path)),
            ("logs", "open", "--no-browser"),
            ("logs", "bundle", "-o", "report.tar.gz"),
        )
    ]
    bad = [ended.stderr for ended in done if ended.code not in (0, 4)]
    if bad:
        return Outcome(f"a command failed: {bad[0]}", 1, "fail")
    count = sum(1 for _ in folder.rglob("*"))
    found = list(wrong_modes(folder, unwanted=unwanted, own=("hosts.yml", "token")))
    private = sum(
        1 for one in folder.rglob("*") if any(fnmatch(one.relative_to(folder).as_posix(), p) for p in PRIVATE)
    )
    return outcome_of(found, f"{count} files and folders, {private} of them private")


@case(GROUP, "plan, page and archive with umask 022", "private files 0600; nobody else may change a file")
def usual(folder: Path) -> Outcome:
    return _commands(folder, 0o022, GROUP_AND_OTHERS)


@case(
    GROUP,
    "the same with umask 002, as for accounts with a group of their own",
    "private files 0600; no file that everybody may change",
)
def grouped(folder: Path) -> Outcome:
    return _commands(folder, 0o002, OTHERS)


@case(
    GROUP,
    "the same with umask 000, as some services start programs",
    "private files 0600; no file that everybody may change",
)
def none(folder: Path) -> Outcome:
    return _commands(folder, 0o000, OTHERS)


@case(
    GROUP,
    "a wheelhouse, a bundle, its signing key, a new known_hosts file",
    "keys and known_hosts 0600; nobody else may change a file",
)
def stored(folder: Path) -> Outcome:
    make(folder)
    add_known_key(str(folder / "known_hosts"), "gpu-1", "ssh-ed25519", b"key", hashed=False)
    count = sum(1 for _ in folder.rglob("*"))
    found = [text for text in wrong_modes(folder, unwanted=GROUP_AND_OTHERS) if not text.startswith("uv/")]
    return outcome_of(found, f"{count} files and folders")


@case(
    GROUP, "an installation by Ansible: everything below the prefix", "service.env 0600; nobody else may change a file"
)
def installed(folder: Path) -> Outcome:
    site = make_site(folder)
    site.send()
    result = site.play()
    if result.status != "ok":
        return Outcome(f"the installation failed: {result.text}", 1, "fail")
    count = sum(1 for _ in site.prefix.rglob("*"))
    found = [text for text in wrong_modes(folder, unwanted=GROUP_AND_OTHERS) if text.startswith("host/firstlight/")]
    return outcome_of(found, f"{count} files and folders")
