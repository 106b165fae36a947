"""Differences between an installation and the state that its last run recorded.

The recording is in playbooks/library/firstlight_state.py. All functions are pure.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from provision.core.folders import product_path
from provision.core.models.facts import Drift, EngineProcess
from provision.core.tables import own_table
from provision.phases.probe.sections import Section, marked
from verify.serving.processes import STOPPED

UNIT = "firstlight-vllm.service"
_UNITS = re.compile(r"firstlight-vllm(@[a-z0-9_-]*)?\.service")
"""That of a machine with one service, and those of several."""
Values = Mapping[str, Sequence[str]]
"""Properties as `systemctl show` prints them; some have several lines."""

_RUNTIME = re.compile(r" ; start_time=.*")
"""Suffix that `systemctl show` adds to a command that has run."""
CHANGED, GONE, FORBIDDEN = "has another content", "is gone", "may not be read"
IMPORTED = "runs at each start of Python, and was not there"
_SUM_UNREAD = re.compile(r"""sha256sum: (?:can't open )?['"]?(/.*?)['"]?: (Permission denied|No such file .*)""")
_STAT_DENIED = re.compile(r"""stat: (?:cannot \w+ |can't stat )['"]?(/.*?)['"]?: Permission denied""")
_CHECKS = product_path("verify") / "data"
"""The checks look for the same."""
_EXPANDED = "SystemCallFilter"
"""A list that some systemd releases expand: only whether it is empty is compared."""
_IDENTITY = ("mode", "uid", "gid", "size", "mtime", "ctime")


def differences(section: Section, nonce: str, unit_now: Values) -> tuple[list[Drift], str | None]:
    """Return differences from the recorded state, and why some parts could not be compared.

    The section has sha256sum's output, the recorded unit, the recorded files, and their `stat` output now.
    """
    if section.absent:
        return [], None
    marks = marked(section.text, nonce, "sealed unit", "sealed files", "now")
    parts = {name: text.strip("\n").split("\n") for name, text in marks}
    lines = f"\n{section.text}".partition(f"\n@@{nonce} ")[0][1:].split("\n")
    said = sums(lines)
    compared = [path for path, word in said.items() if word in ("OK", CHANGED)]
    found, hidden = files(parts.get("sealed files", ()), parts.get("now", ()), compared)
    noted = {each.path for each in found if each.kind == "file"}
    changed = [(path, word) for path, word in said.items() if word in (CHANGED, GONE) and path not in noted]
    found += [Drift(kind="file", path=path, text=word) for path, word in changed]
    found += [Drift(kind="hook", path=path, text=IMPORTED) for path in section.values("imported") if path not in said]
    found += exposed(section.values("exposed")) + account(section.values("account"))
    found += unit(properties(parts.get("sealed unit", ())), unit_now)
    forbidden = sorted({*hidden, *(path for path, word in said.items() if word == FORBIDDEN)})
    unread = f"no permission to read {', '.join(forbidden)}" if forbidden else None
    return found, unread if section.ok else section.failure


def properties(lines: Iterable[str]) -> dict[str, list[str]]:
    """Return values by property; an empty line of a list means no value."""
    found: dict[str, list[str]] = {}
    for line in lines:
        name, separator, value = line.partition("=")
        if separator and re.fullmatch(r"\w+", name):
            found.setdefault(name, []).extend([_RUNTIME.sub("", value)] if value else [])
    return found


def sums(lines: Iterable[str]) -> dict[str, str]:
    """Return what sha256sum says of each file: `OK`, CHANGED, GONE or FORBIDDEN; the last two also where it counts the file as failed."""
    found: dict[str, str] = {}
    for line in lines:
        if told := re.fullmatch(r"(/.*): (OK|FAILED|FAILED open or read)", line):
            found.setdefault(told[1], "OK" if told[2] == "OK" else CHANGED)
        elif unread := _SUM_UNREAD.fullmatch(line):
            found[unread[1]] = FORBIDDEN if unread[2] == "Permission denied" else GONE
    return found


def files(sealed: Iterable[str], now: Iterable[str], compared: Container[str]) -> tuple[list[Drift], list[str]]:
    """Return missing files, files with changed permissions or content, and paths without access permission.

    A line holds mode, uid, gid, size in bytes, modification and change time in Unix seconds, and path. A field of `-`
    is not compared, nor sizes and times of files whose content was compared.
    """
    lines = tuple(now)
    there = {fields[6]: fields for line in lines if len(fields := line.split(" ", 6)) == 7 and fields[0].isdigit()}
    forbidden = {match[1] for line in lines if (match := _STAT_DENIED.fullmatch(line))}
    found: list[Drift] = []
    for fields in (line.split(" ", 6) for line in sealed):
        if len(fields) != 7 or fields[6] in forbidden:
            continue
        path, seen = fields[6], there.get(fields[6])
        if seen is None:
            found.append(Drift(kind="file", path=path, text=GONE))
            continue
        other = {name for name, one, two in zip(_IDENTITY, fields, seen, strict=False) if one not in ("-", two)}
        if other & {"mode", "uid", "gid"}:
            text = f"has mode {_owned(seen)}, sealed with {_owned(fields)}"
            found.append(Drift(kind="permissions", path=path, text=text))
        if (other & {"size", "mtime"} or other == {"ctime"}) and path not in compared:
            text = f"was written to: {_written(seen)}, sealed with {_written(fields)}"
            found.append(Drift(kind="file", path=path, text=text))
    return found, sorted(forbidden)


def exposed(lines: Iterable[str]) -> list[Drift]:
    """Return files and folders of environments that others may write to, or own. A line holds mode, uid, gid and path."""
    parts = (line.split(" ", 3) for line in lines)
    return [
        Drift(kind="permissions", path=path, text=f"has mode {_owned((mode, uid, gid))}: others may change it")
        for mode, uid, gid, path in parts
    ]


def account(lines: Iterable[str]) -> list[Drift]:
    """Return whether somebody can log in as the service's account. A line is that of passwd(5)."""
    fields = (line.split(":") for line in lines)
    return [
        Drift(kind="permissions", path="/etc/passwd", text=f"gives {name} the login shell {shell or '/bin/sh'}")
        for name, *_, shell in fields
        if shell.rpartition("/")[2] not in own_table(_CHECKS / "account.toml")["account"]["no_login"]
    ]


def foreign(lines: Sequence[str], prefix: str) -> tuple[str, ...]:
    """Return what others gave the service's account or left on the host, as sentences.

    A line is one of a file with rules or groups, after its path; an unrecorded path of the installation; or a file with the key.
    """
    later = own_table(_CHECKS / "installed.toml")["files"]["later"]
    powerful = own_table(_CHECKS / "account.toml")["account"]["powerful"]
    known = [f"{prefix}/{each}{end}" for each in later for end in ("", "/*")]
    found = []
    for line in lines:
        path, _, rule = line.partition(":")
        if path == "/etc/group":
            if (group := rule.partition(":")[0]) in powerful:
                found.append(f"the service's account is in group {group}")
        elif path.startswith("/etc/sudoers") and rule:
            found.append(f"{path} gives the service's account sudo rights: `{rule.strip()}`")
        elif not line.startswith(f"{prefix}/"):
            found.append(f"{line} has the API key, and everybody may read it")
        elif not any(fnmatchcase(line, each) for each in known):
            found.append(f"{line} is unknown: nobody installed it")
    return tuple(found)


def unit(sealed: Values, now: Values) -> list[Drift]:
    """Compare the unit that systemd would start with the recorded one.

    Each drop-in of our unit is reported by its path; drop-ins for all units (service.d) only if they change a value.
    """
    if not sealed or not now:
        return []
    before = set(" ".join(sealed.get("DropInPaths", ())).split())
    more = [path for path in " ".join(now.get("DropInPaths", ())).split() if path not in before]
    own = [path for path in more if _UNITS.fullmatch(PurePosixPath(path).parent.name.removesuffix(".d"))]
    differing = list(_differing(sealed, now))
    said = "; ".join(differing)
    found = [
        Drift(kind="drop_in", path=path, text=f"is a drop-in for the unit{f' ({said})' if said else ''}")
        for path in own
    ]
    if differing and not own:
        path, text = next(iter(now.get("FragmentPath", ())), UNIT), f"would be started with {said}"
        if more:
            path, text = more[0], f"is a drop-in for more than this unit ({said})"
        found.append(Drift(kind="unit", path=path, text=text))
    return found


def _differing(sealed: Values, now: Values) -> Iterator[str]:
    for name, values in sealed.items():
        seen = list(now.get(name, ()))
        if name == "DropInPaths" or _alike(seen, values):
            continue
        if name == _EXPANDED and bool("".join(seen)) == bool("".join(values)):
            continue
        if name == "NeedDaemonReload":
            yield "systemd has not read its files since they changed"
        elif "{ path=" in " ".join((*seen, *values)):
            yield f"{name}={_commands(seen) or 'none'}"
        else:
            yield f"{name}={' '.join(seen)[:200]}, sealed with {' '.join(values)[:200] or 'nothing'}"


def _alike(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether values are the same; systemd prints sets in any order, and commands are no sets, except those that a record has as one."""
    if all("{ path=" in " ".join(values) for values in (one, other)):
        return list(one) == list(other)
    return sorted(" ".join(one).split()) == sorted(" ".join(other).split())


def _commands(values: Sequence[str]) -> str:
    said = (re.sub(r"^.*?argv\[\]=(.*?) ; .*$", r"\1", value) for value in values)
    return " and ".join(said)[:400]


def processes(main_pid: int | None, main_state: str, engines: Sequence[EngineProcess]) -> list[Drift]:
    """Return processes of the service that a signal stopped (state T): they exist but do not answer."""
    if main_pid is None:
        return []
    parents = {each.pid: each.parent for each in engines}

    def is_ours(pid: int | None) -> bool:
        for _ in parents:
            if pid == main_pid or pid is None:
                break
            pid = parents.get(pid)
        return pid == main_pid

    stopped = {each.pid: each.name for each in engines if each.state == STOPPED and is_ours(each.pid)}
    if main_state == STOPPED:
        stopped[main_pid] = "the server itself"
    return [
        Drift(kind="process", path=f"/proc/{pid}", text=f"is stopped by a signal, state T ({(name or '?')[:80]})")
        for pid, name in sorted(stopped.items())
    ]


def _owned(fields: Sequence[str]) -> str:
    return f"{int(fields[0], 8):04o} of {fields[1]}:{fields[2]}"


def _written(fields: Sequence[str]) -> str:
    at = fields[5]
    changed = datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at.isdigit() else at
    return f"{fields[3]} bytes, changed {changed}"
