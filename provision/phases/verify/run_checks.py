"""Execution of the checks on a host with the environment's own Python, or in its service's container; their records."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Event, Thread
from typing import Any

from pydantic import ValidationError

from provision.core.errors import FirstlightError, RemoteCommandError
from provision.core.json_text import parse
from provision.core.models.facts import HostFacts
from provision.core.models.records import CheckRecord
from provision.core.run_folder import utc_now
from provision.fleet.ssh import Completed, Session
from provision.phases.verify.tool import Picked, zipapp
from verify.records import BURN_IN, BURN_IN_HOURS, CONTAINER, EXIT_CODES, FRAME, Level, Status, worst_status
from verify.runner.registry import run_limit_s

GRACE_S = 30.0
"""Added to the time limit of the checks, for hosts that start slowly."""

NO_ENVIRONMENT = 66
"""Exit code of our script if there is no environment."""
OTHER_TOOL = 67
"""Exit code of our script if the host does not have this release's tool."""
SENT_TOOL = "verify/verify.pyz"
"""Path of this release's tool below the prefix if another release is installed, whose files stay unchanged."""
_SCRIPT = """
python={prefix}/{environment}/bin/python
[ -x "$python" ] || exit {no_environment}
for tool in {prefix}/bin/verify.pyz {prefix}/{sent}; do
    have=$(sha256sum "$tool" 2>/dev/null || :)
    [ "${{have%% *}}" != {digest} ] || exec {within}"$python" -I "$tool" {arguments}
done
exit {other_tool}
"""
PROGRESS = "verify/progress"
"""Path of the file that says which check runs, below the prefix."""
FOLLOW_S = 3.0
"""Seconds between two looks at it."""
ANSWER_S = 60.0
"""Seconds for one look: a host whose cores all compute answers late, and its connection must not count as broken."""
TAIL_LINES = 8
DRAIN_S = 2100.0
"""For a service that is stopped for the checks: stop, start and proof."""
FAMILIES = ("libraries", "kernels", "attention", "operators", "engine")
"""What an image can change. All other checks look at the host, or at the service from outside."""
LEFT_OUT = ("libraries.injected",)
"""It asks the distribution's list of packages, which an image need not have; the host's own check looks at the environment."""
_RUN = (
    "podman run --rm --interactive --pull=never --network=none --pid=host --ipc=host --read-only --tmpfs=/tmp:exec "
    "--cap-drop=all --cap-add=dac_read_search --security-opt=label=disable --unsetenv-all --env=PATH --env=HOME=/tmp --entrypoint="
)
"""As the service has it, but root may read every folder of the installation."""


@dataclass(frozen=True)
class CheckOptions:
    """Which checks run, and how."""

    level: Level = "standard"
    drain: bool = False
    """Whether the service is stopped for the checks, and started again."""
    hours: float | None = None
    """Length of level burn-in; None for the default of the tool."""
    soak_minutes: float | None = None
    """Length of a soak, load on service and kernels, that replaces the checks."""
    multihost: bool = False
    """Whether hosts are tried together too, and what stands around them."""
    selection: Picked | None = None
    """The checks that run, all of the level when None; with a selection the host keeps the results of its last complete run."""
    serve_follows: bool = False
    """Whether the service is replaced or restarted after the checks, so that the running one is not checked."""
    refute: bool = False
    """Whether only checks run again that failed before; their results are updated on the host."""

    @property
    def is_complete(self) -> bool:
        """Return whether all checks of the level run, which the host keeps as its last."""
        return self.soak_minutes is None and not self.selection and not self.refute

    def words(self, prefix: str) -> list[str]:
        """Return the arguments of the tool for an installation, without what it is to compare with."""
        if self.soak_minutes is not None:
            return ["soak", "--minutes", f"{self.soak_minutes:g}", "--json"]
        kept = self.selection.words if self.selection else ["--write", f"{prefix}/verify/last.json"]
        how = ["--hours", f"{self.hours:g}"] if self.hours else []
        how += [*(["--refute"] if self.refute else []), *(["--drain"] if self.drain else [])]
        return ["--level", self.level, "--json", *how, *kept, "--progress", f"{prefix}/{PROGRESS}"]

    def time_limit_s(self, devices: int, *, level: Level | None = None) -> float:
        """Return the seconds after which a host is given up; its own time limits are shorter. `level` overrides that of the options."""
        # A name can select checks of every level.
        deepest: Level = "full" if self.selection and self.selection.only else level or self.level
        hours = (self.hours or BURN_IN_HOURS) if self.level == BURN_IN else 0.0
        lasting_s = 3600 * hours + 60 * (self.soak_minutes or 0.0)
        return run_limit_s(deepest, devices) + GRACE_S + DRAIN_S * self.drain + lasting_s


def verify(
    session: Session,
    *,
    prefix: str,
    options: CheckOptions = CheckOptions(),
    environment: str | None = None,
    devices: int = 1,
    expect: Mapping[str, Any] | None = None,
    root: bool = False,
    progress: Callable[[str], None] | None = None,
    container: str | None = None,
) -> Verified:
    """Run the checks on a host in one round trip, or two if its tool is of another release.

    After an interruption with `options.drain`, call `resume`.

    Args:
        environment: Digest of an environment that is not live yet; None for the live one.
        devices: Number of devices, on which the time limit depends.
        expect: `stack`, `gpus` and `advisories`; the Stack defaults to the environment's own.
        progress: Gets number and name of the running check every few seconds, from another thread.
        container: Command that starts a program in the service's container, where checks run too; one record tells of them.

    Raises:
        TransportError: The host cannot be reached.
    """
    is_soak, limit_s = options.soak_minutes is not None, options.time_limit_s(devices)
    tool = Tool(session, prefix.rstrip("/"), f"envs/{environment}" if environment else "current", root)
    with _followed(session, f"{tool.prefix}/{PROGRESS}", None if is_soak else progress, root=root):
        verified = tool.answer(options.words(tool.prefix), expect=None if is_soak else expect, limit_s=limit_s)
    if container is None:
        return verified
    words = ["--level", options.level, "--json", *Picked(only=FAMILIES, skip=LEFT_OUT).words]
    found = replace(tool, within=container).answer(words, expect=expect, limit_s=limit_s)
    return verified.plus(_in_container(found, session.host, options.level))


@contextmanager
def _followed(session: Session, file: str, progress: Callable[[str], None] | None, *, root: bool) -> Iterator[None]:
    """Report what a file on the host says, until the block ends."""
    ended = Event()

    def follow(report: Callable[[str], None]) -> None:
        # The block itself fails where the host is lost; a host that does not answer here is not asked again.
        with contextlib.suppress(FirstlightError):
            while not ended.wait(FOLLOW_S):
                done = session.run(f"cat {shlex.quote(file)} 2>/dev/null", timeout_s=ANSWER_S, root=root)
                if (text := done.stdout.strip()) and not ended.is_set():
                    report(text)

    if progress is not None:
        Thread(target=follow, args=(progress,), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def resume(session: Session, *, prefix: str, root: bool = False) -> tuple[bool, str]:
    """Restart the service that interrupted checks left stopped.

    Returns:
        Whether it runs, and the message of the tool.

    Raises:
        TransportError: The host cannot be reached.
        RemoteCommandError: The tool cannot run.
    """
    done = Tool(session, prefix.rstrip("/"), "current", root).run(["--resume"], limit_s=DRAIN_S)
    output = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return done.rc == 0, output[-1] if output else f"verify.pyz ended with {done.rc}"


@dataclass(frozen=True)
class Tool:
    """This release's tool, run by an environment's own Python on a host."""

    session: Session
    prefix: str
    """Folder of the installation, without a slash at its end."""
    place: str
    """The environment's folder below it."""
    root: bool
    within: str = ""
    """Command that starts the tool in a container; empty for the host itself."""

    def run(self, words: Sequence[str], *, limit_s: float, stdin: str | None = None) -> Completed:
        """Run the tool with arguments; send it first if the host has another release's.

        Raises:
            TransportError: The host cannot be reached.
            RemoteCommandError: The tool did not end in time.
        """
        command = tool_command(self.prefix, self.place, words, within=self.within)
        done = self.session.run(command, stdin=stdin, timeout_s=limit_s, root=self.root)
        if done.rc == OTHER_TOOL:
            self.session.run(f"mkdir -p {shlex.quote(f'{self.prefix}/verify')}", root=self.root)
            self.session.write(f"{self.prefix}/{SENT_TOOL}", zipapp(), mode=0o755, root=self.root)
            done = self.session.run(command, stdin=stdin, timeout_s=limit_s, root=self.root)
        return done

    def answer(self, words: Sequence[str], *, expect: Mapping[str, Any] | None, limit_s: float) -> Verified:
        """Run the tool, and return what it says."""
        asked = [*words, *(("--expect", "-") if expect else ())]
        try:
            done = self.run(asked, stdin=json.dumps(dict(expect)) if expect else None, limit_s=limit_s)
        except RemoteCommandError as error:
            return broken(self.session.host, error.text, remedy=error.hint)
        return read(self.session.host, done, environment=f"{self.prefix}/{self.place}")


def tool_command(prefix: str, place: str, words: Sequence[str], *, within: str = "") -> str:
    """Return the command that runs this release's tool; `place` is the environment's folder below the prefix.

    It exits with NO_ENVIRONMENT or OTHER_TOOL if one of the two is missing.
    """
    return _SCRIPT.format(
        prefix=shlex.quote(prefix),
        environment=shlex.quote(place),
        sent=SENT_TOOL,
        digest=hashlib.sha256(zipapp()).hexdigest(),
        arguments=shlex.join(words),
        within=f"{within} " if within else "",
        no_environment=NO_ENVIRONMENT,
        other_tool=OTHER_TOOL,
    )


@dataclass(frozen=True)
class Verified:
    """Check results of one host."""

    checks: tuple[CheckRecord, ...]
    document: dict[str, Any]
    """The document of `verify --json`; its checks have the inventory's name of the host."""

    @property
    def status(self) -> Status:
        """The worst status."""
        return worst_status([check.status for check in self.checks])

    def plus(self, check: CheckRecord) -> Verified:
        """Return the results with one more check."""
        checks = (*self.checks, check)
        changed = {
            "status": worst_status([one.status for one in checks]),
            "checks": [one.model_dump() for one in checks],
        }
        return Verified(checks, {**self.document, **changed})

    @property
    def exit_code(self) -> int:
        """Exit code of `verify`: 0, 1, 2 or 3."""
        return EXIT_CODES[self.status]


def read(host: str, done: Completed, *, environment: str) -> Verified:
    """Parse the output of a host; a host without valid output gets one record with the problem. `environment` is its folder."""
    if done.rc == NO_ENVIRONMENT:
        text = f"no environment at {environment}"
        return broken(host, text, remedy="install it first: ./firstlight provision")
    try:
        document = parse(done.stdout)
        # With the inventory's name of the host, and without keys of other releases.
        given = ({**check, "figures": check.get("figures") or (), "host": host} for check in document["checks"])
        checks = [CheckRecord.model_validate(check, extra="ignore") for check in given]
    except (ValueError, ValidationError, KeyError, TypeError, AttributeError) as error:
        output = (done.stderr.strip() or done.stdout.strip()).splitlines()[-TAIL_LINES:]
        last = output[-1] if output else "no output"
        text = f"the checks ended with exit code {done.rc} and without a document: {last}"
        evidence = {"output": "\n".join(output), "problem": f"{type(error).__name__}: {error}"}
        remedy = f"run on the host: {environment}/bin/python -c 'import torch'"
        return broken(host, text, evidence=evidence, remedy=remedy)
    if not checks:
        return broken(host, "the checks returned an empty list")
    return Verified(tuple(checks), {**document, "host": host, "checks": [check.model_dump() for check in checks]})


def broken(host: str, text: str, *, evidence: Any = None, remedy: str | None = None) -> Verified:
    """Return the record of a host whose checks have no results; `text` is the reason."""
    check = CheckRecord(
        id=FRAME, family="frame", status="error", host=host, reason=text, evidence=evidence, remedy=remedy
    )
    document: dict[str, Any] = {"schema_version": 1, "status": "error", "host": host, "started_at": utc_now()}
    return Verified((check,), document | {"seconds": 0.0, "checks": [check.model_dump()]})


def container_command(prefix: str, image: str, facts: HostFacts | None) -> str:
    """Return the command that starts a program of the environment in the container, with all NVIDIA GPUs of the host."""
    has_gpus = facts and facts.nvidia and facts.nvidia.gpus and any(one.name == "nvidia-ctk" for one in facts.programs)
    gpus = " --device=nvidia.com/gpu=all" if has_gpus else ""
    return f"{_RUN}{gpus} --volume={shlex.quote(f'{prefix}:{prefix}:ro')} {image}"


def _in_container(found: Verified, host: str, level: Level) -> CheckRecord:
    """Return one record of the checks in the service's container."""
    bad = [check for check in found.checks if check.status in ("error", "fail")]
    passed = sum(check.status in ("ok", "warn") for check in found.checks)
    text = f"{passed} checks passed, of {', '.join(FAMILIES)} and what they require"
    if bad:
        text = f"{bad[0].id}: {bad[0].reason}"
    return CheckRecord(
        id=CONTAINER,
        family="frame",
        status=bad[0].status if bad else "ok",
        host=host,
        reason=f"in the service's container, {text}",
        evidence=[check.model_dump(exclude_none=True) for check in bad] or None,
        remedy=bad[0].remedy if bad else None,
        seconds=found.document["seconds"],
        level=level,
    )
