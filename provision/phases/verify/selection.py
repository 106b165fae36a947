"""Which checks of a level a person picked, and what is injected into them; the tool that knows the names is asked here."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

from provision.core.errors import UsageError
from provision.phases.verify.tool import SOURCE
from verify.records import USAGE_EXIT, Level

LIST_S = 60.0


@dataclass(frozen=True, slots=True)
class Picked:
    """Names of checks and families, and faults as FAULT or FAULT@NAME."""

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    inject: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """The options of `verify.pyz`; empty where nothing was picked."""
        given = (("--only", self.only), ("--skip", self.skip), ("--inject", self.inject))
        return [word for option, names in given for name in names for word in (option, name)]

    def listed(self, level: Level, *, as_json: bool = False) -> str:
        """The checks that would run, with what each proves, as this release's tool lists them; no host is asked.

        Raises UsageError for a name that no check, family or fault has, or where nothing is left to run.
        """
        words = ["--list", "--level", level, *self.words, *(["--json"] if as_json else [])]
        done = subprocess.run(
            [sys.executable, "-m", "verify", *words],
            cwd=SOURCE.parent,
            capture_output=True,
            text=True,
            timeout=LIST_S,
            check=False,
        )
        if done.returncode == USAGE_EXIT:
            said = done.stderr.partition("error: ")[2].partition("\n")[0]
            raise UsageError(said, hint="./firstlight verify --list --level full names all checks")
        done.check_returncode()
        return done.stdout.rstrip("\n")
