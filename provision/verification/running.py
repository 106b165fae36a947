"""The room `verify`: ships the checks of `verify/` to a host as one file, runs them there, and reads what they say.

Whatever a host answers becomes records. A tool that cannot run, dies or prints something else is one record with status
`error` and the id `frame.run`; only a host that cannot be reached raises.
"""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from provision.errors import RemoteCommandError
from provision.models.records import CheckRecord, Figure
from provision.remote import Completed, Session
from provision.run import utc_now, write_atomically
from verify.records import EXIT_CODES, FRAME, RUN_DEADLINE_S, Level, Status, fold_skips, worst

if TYPE_CHECKING:
    from rich.table import Table

SOURCE = Path(__file__).resolve().parent.parent / "verify"
LAUNCHER = b"#!/usr/bin/env python3\n"
MAIN = b"import sys\n\nfrom verify.cli import main\n\nsys.exit(main(sys.argv[1:]))\n"
STAYS_HERE = frozenset({"verify/page.py", "verify/doctor/page.py", "verify/doctor/words.py", "verify/fleet.py"})
"""What makes pages of the documentation, compares hosts or guesses by words: no host runs it."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip file can hold: the file's bytes depend on the sources alone."""

GRACE_S = 30.0
"""Beyond the run's own deadline, for a host that is slow to begin."""
TAIL_LINES = 8

NO_ENVIRONMENT, OTHER_TOOL = 66, 67
BROUGHT = "verify/verify.pyz"
"""Where a release puts its tool under the prefix while another one is installed: what is installed stays as that one sealed it."""
_SCRIPT = """
python={prefix}/{environment}/bin/python
[ -x "$python" ] || exit {no_environment}
for tool in {prefix}/bin/verify.pyz {prefix}/{brought}; do
    have=$(sha256sum "$tool" 2>/dev/null || :)
    [ "${{have%% *}}" != {digest} ] || exec "$python" -I "$tool" {arguments}
done
exit {other_tool}
"""
DRAIN_S = 2100.0
"""For a service that is stopped for the checks: to end, to start again and to be proven ready."""

COMPARE_S = 3 * DRAIN_S
"""For two servers to start and to be measured, and for the service to come back."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What one host answered."""

    checks: tuple[CheckRecord, ...]
    document: dict[str, Any]
    """As `verify --json` prints it; its checks carry the inventory's name of the host."""

    @property
    def status(self) -> Status:
        """The worst check's."""
        return worst([check.status for check in self.checks])

    @property
    def exit_code(self) -> int:
        """By the scale of `verify`: 0, 1, 2 or 3."""
        return EXIT_CODES[self.status]


def build_zipapp(target: Path) -> Path:
    """Write the checks as one file that any Python from 3.10 on runs; the same sources give the same bytes.

    Beside it lies what its sources looked like: a second run looks at them and does not build again.
    """
    noted = target.with_name(f"{target.name}.sources")
    sources = sorted(path for path in SOURCE.rglob("*") if path.suffix in (".py", ".toml"))
    look = repr([(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in sources])
    if not target.is_file() or not noted.is_file() or noted.read_text(encoding="utf-8") != look:
        content = zipapp()
        if not target.is_file() or target.read_bytes() != content:
            write_atomically(target, content, mode=0o755)
        write_atomically(noted, look)
    return target


@cache
def zipapp() -> bytes:
    """The checks as one file, its tables as JSON: Python 3.10 reads no TOML.

    Deflated, which is a third of the size. Releases of zlib may pack differently: a host that two controllers share is then sent the tool anew.
    """
    from verify.doctor.catalog import bake  # noqa: PLC0415 - a file that is current is not built again

    entries = {"__main__.py": MAIN}
    for path in sorted(SOURCE.rglob("*")):
        name = f"verify/{path.relative_to(SOURCE).as_posix()}"
        if name in STAYS_HERE:
            continue
        if path.suffix == ".py":
            entries[name] = path.read_bytes()
        elif path.suffix == ".toml" and path.parent.name == "data":
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            entries[f"{name.removesuffix('.toml')}.json"] = json.dumps(
                table, sort_keys=True, separators=(",", ":")
            ).encode()
    entries |= {f"verify/doctor/{name}": content for name, content in bake(SOURCE / "doctor").items()}
    archive = io.BytesIO(LAUNCHER)
    archive.seek(0, io.SEEK_END)
    with zipfile.ZipFile(archive, "a") as file:
        for name, content in sorted(entries.items()):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system = 3  # Unix, wherever it is built
            info.external_attr = 0o644 << 16
            file.writestr(info, content, zipfile.ZIP_DEFLATED, 9)
    return archive.getvalue()


def verify(
    session: Session,
    *,
    prefix: str,
    environment: str | None = None,
    level: Level = "standard",
    expect: Mapping[str, Any] | None = None,
    root: bool = False,
    drain: bool = False,
    soak_minutes: float | None = None,
) -> Verified:
    """Run the checks on a host in one round trip, and a second one when its tool is not this release's.

    `environment` is the digest of one that is not live yet; null is the live one. `expect` holds `stack` and `gpus`;
    without it the environment's own Stack is compared with. With `drain` the service is stopped meanwhile: after an
    interruption call `resume`. With `soak_minutes` the service and the kernels are asked again and again for so long,
    in place of the checks. Raises TransportError.
    """
    prefix = prefix.rstrip("/")
    place = f"envs/{environment}" if environment else "current"
    if soak_minutes is not None:
        words = ["soak", "--minutes", f"{soak_minutes:g}", "--json"]
    else:
        words = ["--level", level, "--json", "--write", f"{prefix}/verify/last.json"]
        words += [*(["--expect", "-"] if expect else []), *(["--drain"] if drain else [])]
    asked = json.dumps(dict(expect)) if expect else None
    limit_s = RUN_DEADLINE_S[level] + GRACE_S + (DRAIN_S if drain else 0.0) + 60 * (soak_minutes or 0.0)
    try:
        done = _run_tool(session, prefix, place, words, stdin=asked, limit_s=limit_s, root=root)
    except RemoteCommandError as error:
        return _broken(session.host, error.text, remedy=error.hint)
    return read(session.host, done, environment=f"{prefix}/{place}")


def resume(session: Session, *, prefix: str, root: bool = False) -> tuple[bool, str]:
    """Have the service back that checks stopped and that an interruption left so: whether it is, and how that went.

    Raises TransportError, RemoteCommandError.
    """
    done = _run_tool(session, prefix.rstrip("/"), "current", ["--resume"], stdin=None, limit_s=DRAIN_S, root=root)
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return done.rc == 0, said[-1] if said else f"verify.pyz ended with {done.rc}"


def compare(session: Session, *, prefix: str, words: Sequence[str], root: bool = False) -> dict[str, Any]:
    """Measure a host's service with one choice and with another: the document of `verify.pyz compare`.

    After an interruption call `resume`. Raises TransportError, and RemoteCommandError when it cannot be measured.
    """
    asked = ["compare", *words, "--json"]
    done = _run_tool(session, prefix.rstrip("/"), "current", asked, stdin=None, limit_s=COMPARE_S, root=root)
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().removeprefix("error: ") or f"verify.pyz ended with {done.rc}"
        text, _, hint = said.partition("\n\nhint: ")
        raise RemoteCommandError(f"host `{session.host}`: {text}", hint=hint or "./firstlight status") from None
    return document


def _run_tool(
    session: Session, prefix: str, place: str, words: Sequence[str], *, stdin: str | None, limit_s: float, root: bool
) -> Completed:
    """Run the tool by the environment's own Python, this release's brought first where only another one is."""
    command = tool_command(prefix, place, words)
    done = session.run(command, stdin=stdin, timeout_s=limit_s, root=root)
    if done.rc == OTHER_TOOL:
        session.run(f"mkdir -p {shlex.quote(f'{prefix}/verify')}", root=root)
        session.write(f"{prefix}/{BROUGHT}", zipapp(), mode=0o755, root=root)
        done = session.run(command, stdin=stdin, timeout_s=limit_s, root=root)
    return done


def tool_command(prefix: str, place: str, words: Sequence[str]) -> str:
    """The command that runs this release's tool by an environment's own Python; `place` is the environment below the prefix.

    It ends with NO_ENVIRONMENT or OTHER_TOOL where one of the two is not there.
    """
    return _SCRIPT.format(
        prefix=shlex.quote(prefix),
        environment=shlex.quote(place),
        brought=BROUGHT,
        digest=hashlib.sha256(zipapp()).hexdigest(),
        arguments=shlex.join(words),
        no_environment=NO_ENVIRONMENT,
        other_tool=OTHER_TOOL,
    )


def read(host: str, done: Completed, *, environment: str) -> Verified:
    """What a host's answer means: its records, or one that says why there are none. `environment` is its folder."""
    if done.rc == NO_ENVIRONMENT:
        text = f"no environment at {environment}"
        return _broken(host, text, remedy="install it first: ./firstlight provision")
    try:
        document = json.loads(done.stdout)
        checks = [_record(host, check) for check in document["checks"]]
    except (ValueError, ValidationError, KeyError, TypeError, AttributeError) as error:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-TAIL_LINES:]
        text = f"the checks ended with exit code {done.rc} and without a document: {said[-1] if said else 'no output'}"
        evidence = {"output": "\n".join(said), "problem": f"{type(error).__name__}: {error}"}
        return _broken(
            host, text, evidence=evidence, remedy=f"run on the host: {environment}/bin/python -c 'import torch'"
        )
    if not checks:
        return _broken(host, "the checks answered with an empty list")
    return Verified(tuple(checks), {**document, "host": host, "checks": [check.model_dump() for check in checks]})


def checks_table(checks: Sequence[CheckRecord]) -> Table:
    """The records for a terminal: a row a check, its remedy below its reason where it did not pass."""
    from rich.table import Table  # noqa: PLC0415 - a JSON run does not pay for it
    from rich.text import Text  # noqa: PLC0415

    colours = {"ok": "green", "skip": "dim", "warn": "yellow", "fail": "red", "error": "red"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("host", overflow="fold", max_width=30)
    for heading in ("status", "check", "device"):
        table.add_column(heading, no_wrap=True)
    table.add_column("seconds", justify="right")
    table.add_column("reason", overflow="fold")
    for row in fold_skips([check.model_dump() for check in checks]):
        passed = row["status"] in ("ok", "skip")
        reason = row["reason"] if passed or not row["remedy"] else f"{row['reason']}\nremedy: {row['remedy']}"
        cells = (row["host"] or "", row["id"], row["device"] or "", f"{row['seconds']:.2f}", reason)
        host, *rest = map(Text, cells)  # as text: what a host says is no markup
        table.add_row(host, Text(row["status"], style=colours[row["status"]]), *rest)
    return table


def _record(host: str, check: Mapping[str, Any]) -> CheckRecord:
    """A check of the tool's document; keys of another release are left out, the host is the inventory's name."""
    figures = tuple(Figure(**_known(figure, Figure.model_fields)) for figure in check.get("figures") or ())
    return CheckRecord(**{**_known(check, CheckRecord.model_fields), "figures": figures, "host": host})


def _known(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in fields}


def _broken(host: str, text: str, *, evidence: Any = None, remedy: str | None = None) -> Verified:
    check = CheckRecord(
        id=FRAME, family="frame", status="error", host=host, reason=text, evidence=evidence, remedy=remedy
    )
    document = {"schema_version": 1, "status": "error", "host": host, "started_at": utc_now(), "seconds": 0.0}
    return Verified((check,), cast("dict[str, Any]", {**document, "checks": [check.model_dump()]}))
