"""Next commands, from what happened: use, check and undo; or show and remove the reason of a failure. And commands as lines that a copy runs."""

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from provision.core.models.invocation import POLICY, TAKES, Invocation
from provision.core.models.records import ENDED_BADLY, Finding, HostSummary
from provision.report.layout import COLUMNS, width
from verify.doctor.catalog import load_causes
from verify.doctor.scoring import LIKELY_AT
from verify.printable import printable

APPLY = " --apply"
UNSERVED = ("planned", "stopped", "removed")
MOST = 4
"""Maximum number of suggested commands."""
OF_THEIR_OWN = r"doctor|verify (load|soak|compare)|verify.* --(level|drain|only|skip|return)\b"
"""Commands with arguments that others do not have: they are repeated as they were typed."""
MOST_MENDS = 2
"""Maximum number of failed hosts for which a command is named; those with different commands come first."""


def next_commands(
    invocation: Invocation,
    hosts: tuple[HostSummary, ...],
    *,
    command: str,
    reach: Mapping[str, str] = MappingProxyType({}),
    differ: bool = False,
) -> tuple[str, ...]:
    """Return at most four commands for the hosts of a run, the most useful first.

    The parser accepts each. A command that failed is not among them, unless one before it removes the reason.

    Args:
        reach: By the name of a host: the command that connects to it as this product does.
        differ: Whether the comparison of the hosts failed.
    """
    marked = any(host.state == "quarantined" for host in hosts)
    back = (f"{invocation.suggest('verify')} --return",) if marked else ()
    if any(host.state in ENDED_BADLY for host in hosts):
        found = (*_after_failure(invocation, hosts, command, reach), *back)
    elif all(host.state in UNSERVED or (host.state == "probed" and host.release is None) for host in hosts):
        found = (invocation.suggest("provision"),)
    else:
        found = (*back, *_after_success(invocation, hosts, command, differ=differ))
    return tuple(dict.fromkeys(found))[:MOST]


def _after_success(
    invocation: Invocation, hosts: tuple[HostSummary, ...], command: str, *, differ: bool
) -> Iterator[str]:
    """Yield commands that use, check, show and undo what hosts serve."""
    if not invocation.knows("provision"):
        yield invocation.suggest("verify")
        return
    if command.split()[:1] in (["install"], ["drivers"]):
        yield invocation.suggest("provision")
    serving = [host.name for host in hosts if host.gateway] or [host.name for host in hosts if host.endpoint]
    if serving:
        is_named = len(hosts) > 1 or invocation.limit is not None
        yield invocation.on_inventory("chat", *(serving[:1] if is_named else ()))
    yield invocation.suggest("drift" if differ else "verify")
    yield invocation.suggest("status")
    earlier = [host.name for host in hosts if host.earlier_release]
    yield invocation.suggest("rollback", hosts=_some(earlier, hosts)) if earlier else invocation.suggest("uninstall")


def _after_failure(
    invocation: Invocation, hosts: tuple[HostSummary, ...], command: str, reach: Mapping[str, str]
) -> Iterator[str]:
    """Yield commands that show or remove why hosts failed, then the run again where nothing is in its way."""
    mends = {
        host.name: found
        for host in hosts
        if (found := _mend(invocation, host, command, limit=_some([host.name], hosts), reach=reach.get(host.name)))
    }
    first_of_kind = {purpose(mends[name]): name for name in reversed(mends)}.values()
    ranked = sorted(mends, key=lambda name: name not in first_of_kind)
    shown = {name: mends[name] for name in ranked[:MOST_MENDS]}
    yield from shown.values()
    refused = [
        host.name
        for host in hosts
        if host.name in shown and host.earlier_release and not host.refused and _failed_phase(host) == "serve"
    ]
    if refused and command.split()[:1] != ["rollback"]:
        yield invocation.suggest("rollback", hosts=_some(refused, hosts))
    free = [host.name for host in hosts if host.state == "interrupted" or shown.get(host.name, "").endswith(APPLY)]
    if free:
        yield from _again(invocation, command, free if any(h.name not in free for h in hosts) else None)


def _mend(
    invocation: Invocation, host: HostSummary, command: str, *, limit: str | None, reach: str | None
) -> str | None:
    """Return the command that shows or removes the reason for which a host failed; None where there is none."""
    phase, name = _failed_phase(host), command.partition(" ")[0]
    options = {key: value for key, value in invocation.options.items() if key not in POLICY}
    free = invocation.model_copy(update={"options": options, "settings": ()})
    if host.state not in ("failed", "unreachable"):
        mend = None
    elif host.state == "unreachable" or phase == "probe":
        mend = reach
    elif phase == "plan" or (phase == "stage" and free != invocation):
        is_new = free != invocation or "--explain" not in command.split()
        mend = f"{free.suggest('plan', hosts=limit)} --explain" if is_new else None
    elif not invocation.knows("doctor") or name == "doctor" or (phase == "stage" and not host.findings):
        mend = None
    elif name == "verify" and host.release is None:
        mend = invocation.suggest("provision", hosts=limit)
    elif name == "rollback" and host.earlier_release is None:
        mend = invocation.suggest("status", hosts=limit)
    else:
        mend = invocation.suggest("doctor", hosts=host.name) + (
            APPLY if any(map(is_repairable, host.findings[:1])) else ""
        )
    return mend


def _failed_phase(host: HostSummary) -> str:
    """Return the phase that failed; `verify` for a host whose earlier checks failed."""
    return next((phase for phase, result in host.phases.items() if result.has_failed), "verify")


def _some(names: list[str], hosts: tuple[HostSummary, ...]) -> str | None:
    """Return a limit; None where it would be all hosts of the run."""
    return ",".join(names) if len(names) < len(hosts) else None


def _again(invocation: Invocation, command: str, names: list[str] | None) -> Iterator[str]:
    """Yield the command of the run, for some of its hosts; nothing where it cannot be limited to them."""
    name = command.partition(" ")[0]
    if name == "rollout":
        yield invocation.on_record("rollout", "resume")
    elif name == "rollback":  # a second one may lead to a third release
        yield invocation.suggest("status", hosts=",".join(names) if names else None)
    elif name in TAKES and not re.match(OF_THEIR_OWN, command):
        yield invocation.suggest(name, hosts=",".join(names) if names else None)
    elif names is None and command:
        yield f"./firstlight {command}"


PURPOSES = {
    "chat": "ask it",
    "doctor": "diagnose",
    "drift": "compare",
    "plan": "see why",
    "provision": "provision",
    "rollback": "roll back",
    "rollout": "go on",
    "serve": "serve",
    "status": "status",
    "uninstall": "remove",
    "verify": "check again",
}


def purpose(command: str) -> str:
    """Return the purpose of a command of `next_commands`."""
    program, *words = command.split()
    if program == "ssh":
        return "connect"
    return "repair" if command.endswith(APPLY) else PURPOSES.get(words[0] if words else "", "run again")


FLAG = re.compile(r"-\w|>|\|( sed)?")
_WORD = re.compile(r"""(?:'[^']*'|"(?:[^"$]|\$(?!\())*(?:"|\$\()|\)"|\S)+""")
"""A word: text in quotes, in double quotes up to the command that they hold, the end of that command, or other signs."""

_MEMBERS = re.compile(r"""(?<=,)(?=")""")
"""The place between two members of a JSON object; a comma and a quote within a member have a backslash between them."""


def command_lines(text: str, *, indent: str = "  ", columns: int = COLUMNS) -> list[str]:
    """Return a command as lines that can be copied and run.

    Lines break with a backslash between words outside quotes. Of the words that are too long for a line, a JSON object in quotes becomes
    several quoted texts that the shell joins, so those after the first begin in the first column. Others are not cut: each has its own line.
    """
    lines: list[str] = []
    line = indent
    found: list[str] = []
    for word in words(printable(text)):
        if found and FLAG.fullmatch(found[-1]):
            found[-1] += f" {word}"  # an option stays with its value, `>` with its file, `| sed` with its script
        else:
            found.append(word)
    for number, word in enumerate(found, 1):
        most = columns - (0 if number == len(found) else 2)
        if not line.strip():
            line += word
        elif width(line) + 1 + width(word) <= most:
            line += f" {word}"
        else:
            lines.append(f"{line} \\")
            line = f"{indent}  {word}"
        while "'{" in word and width(line) > most and (cut := _cut(line, columns)):
            lines.append(f"{line[:cut]}'\\")
            line = f"'{line[cut:]}"
    return [*lines, line]


def _cut(line: str, columns: int) -> int:
    """Return where quotes and a backslash fit in between two members of a JSON object: the last such place in a line, else the first; 0 without any."""
    places = [found.start() for found in _MEMBERS.finditer(line)]
    return max((place for place in places if width(line[:place]) + 2 <= columns), default=min(places, default=0))


def purposes_and_commands(commands: Iterable[str], indent: int) -> Iterator[list[str]]:
    """Yield the lines of each command with its purpose before it, aligned; the first line of each still lacks the indent."""
    named = [(purpose(entry), entry) for entry in commands]
    widest = max((width(name) for name, _ in named), default=0) + 2
    for name, entry in named:
        # What follows the first line is indented already, or goes on in the first column, as the shell needs it.
        first, *rest = command_lines(entry, indent=" " * (indent + widest))
        yield [name.ljust(widest) + first.lstrip(), *rest]


def rows(lines: Iterable[str]) -> int:
    """Return how many lines of a terminal the lines of a command take."""
    return sum(max(-(-width(line) // COLUMNS), 1) for line in lines)


def words(text: str) -> list[str]:
    """Split a command at blanks outside quotes, also at those of a command within `"$(...)"`."""
    return _WORD.findall(text)


def is_repairable(found: Finding) -> bool:
    """Return whether `doctor --apply` may repair this cause: it is likely, and a step of its fix is safe."""
    cause = next((cause for cause in load_causes() if cause.id == found.cause), None)
    return cause is not None and found.confidence >= LIKELY_AT and any(fix.safe for fix in cause.fixes)
