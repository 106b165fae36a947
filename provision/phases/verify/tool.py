"""The file verify.pyz, which contains the checks, and the selection of checks and injected faults that it understands."""

import json
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from provision.core.errors import UsageError
from provision.core.folders import product_path
from provision.core.process import run_program
from provision.core.zipapp import kept, pack_zipapp
from verify.doctor.catalog import PACKED_CAUSES, pack
from verify.records import USAGE_EXIT, Level

SOURCE = product_path("verify")
LIST_S = 60.0
STAYS_HERE = {"verify/doctor/text_classifier.py", "verify/host/comparison.py", "verify/cabi/build.py"}
"""Modules that no host needs: comparison of hosts, text classifier, the C interface's build."""


def build_zipapp(target: Path) -> Path:
    """Write verify.pyz, unless it is up to date. Equal sources give equal bytes."""
    return kept(target, (path for path in SOURCE.rglob("*") if path.suffix in (".py", ".toml")), zipapp)


@cache
def zipapp() -> bytes:
    """Return verify.pyz, which runs with Python 3.10 and later; its tables are JSON, because Python 3.10 cannot read TOML.

    Releases of zlib may compress differently: a host with two controllers then gets the tool again.
    """
    entries: dict[str, bytes] = {}
    for path in sorted(SOURCE.rglob("*")):
        name = f"verify/{path.relative_to(SOURCE).as_posix()}"
        if name in STAYS_HERE:
            continue
        if path.suffix == ".py":
            entries[name] = path.read_bytes()
        elif path.suffix == ".toml" and path.parent.name == "data":
            entries[str(Path(name).with_suffix(".json"))] = json.dumps(
                tomllib.loads(path.read_text(encoding="utf-8"))
            ).encode()
    entries[f"verify/doctor/{PACKED_CAUSES}"] = pack()
    return pack_zipapp(entries, main="verify.cli.main:main(sys.argv[1:])")


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
        late = UsageError(f"the list of checks did not come within {LIST_S:g} s")
        done = run_program([sys.executable, "-m", "verify", *words], late, timeout_s=LIST_S, cwd=SOURCE.parent)
        if done.returncode == USAGE_EXIT:
            output = done.stderr.partition("error: ")[2].partition("\n")[0]
            raise UsageError(output, hint="./firstlight verify --list --level full shows all checks")
        done.check_returncode()
        return done.stdout.rstrip("\n")
