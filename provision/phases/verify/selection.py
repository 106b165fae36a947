"""Selection of checks and injected faults; the tool of this release validates the names here."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

from provision.core.errors import UsageError
from provision.phases.verify.tool import SOURCE
from verify.records import USAGE_EXIT, Level

LIST_S = 60.0


@dataclass(frozen=True)
class Picked:
    """Names of checks and families, and faults as FAULT or FAULT@NAME."""

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    inject: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """Options of `verify.pyz`; empty without a selection."""
        given = (("--only", self.only), ("--skip", self.skip), ("--inject", self.inject))
        return [word for option, names in given for name in names for word in (option, name)]

    def listed(self, level: Level, *, as_json: bool = False) -> str:
        """Return the list of the selected checks with their descriptions, without asking a host.

        Raises:
            UsageError: A check, family or fault does not exist, or no check is left.
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
            output = done.stderr.partition("error: ")[2].partition("\n")[0]
            raise UsageError(output, hint="./firstlight verify --list --level full shows all checks")
        done.check_returncode()
        return done.stdout.rstrip("\n")
