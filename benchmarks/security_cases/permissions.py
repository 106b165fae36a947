"""The modes of the files that commands and installations leave, with three umasks."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.security_cases.rows import Outcome, case, firstlight, outcome_of, own_environment
from tests.install.conftest import make_site
from tests.pipeline.test_secrets import inventory

GROUP = "permissions"
PRIVATE = (
    "cache/inventory/*",
    "config/firstlight/bundle.key",
    "*.tar.gz",
    "known_hosts",
    "host/firstlight/etc/service.env",
)
"""Files that only their owner may read."""
PAGE_AND_ARCHIVE = (("open", "--no-browser"), ("bundle", "-o", "report.tar.gz"))
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


def _commands(umask: int, unwanted: int, expected: str) -> None:
    @case(GROUP, f"plan, page and archive with umask {umask:03o}", f"private files 0600; {expected}")
    def act(folder: Path) -> Outcome:
        inventory(folder)
        done = [firstlight("plan", "-i", "hosts.yml", folder=folder, umask=umask)]
        # where commands that change nothing are recorded
        with own_environment(folder, FIRSTLIGHT_LOGS=str(folder / "logs/queries")):
            done += [firstlight("logs", *words, folder=folder, umask=umask) for words in PAGE_AND_ARCHIVE]
        if bad := [ended.stderr for ended in done if ended.code not in (0, 4)]:
            return Outcome(f"a command failed: {bad[0]}", 1, "fail")
        found = list(wrong_modes(folder, unwanted=unwanted, own=("hosts.yml", "token")))
        return outcome_of(found, f"{sum(1 for _ in folder.rglob('*'))} files and folders")


_commands(0o022, GROUP_AND_OTHERS, "nobody else may change a file")
_commands(0o002, OTHERS, "no file that everybody may change")
_commands(0o000, OTHERS, "no file that everybody may change")


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
