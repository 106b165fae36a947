"""What of this product is on the host: state, environments, service, lock, files that somebody changed."""

from __future__ import annotations

import re

from provision.models.facts import Installed
from provision.probe.parsers.values import integer, json_object
from provision.probe.sections import Output, Section

_FIELDS = {
    "state.json": "state",
    "lock.json": "held_by",
    "verify/last.json": "last_verify",
    "verify/ready.json": "last_ready",
}


def installed(output: Output, unknown: dict[str, str]) -> Installed | None:
    """Null only where the prefix itself is unknown."""
    section = output["installed"]
    prefix = output["system"].value("prefix")
    if prefix is None:
        unknown["installed"] = output["system"].failure
        return None
    if not section.ok:
        unknown["installed.state"] = section.failure
    for name in section.values("unreadable"):
        unknown[f"installed.{_FIELDS.get(name, 'environments')}"] = f"no permission to read {prefix}/{name}"
    files = _files(section, output.nonce)
    changed, unread = tampered(output["tampered"])
    if output["tampered"].absent and "state.json" in files:
        # Both are written by one task: somebody took the list away.
        changed = (f"{prefix}/state.sha256",)
    if unread:
        unknown["installed.tampered"] = unread
    service, pid, supervisor = _service(output["service"])
    if not output["service"].ok:
        unknown["installed.service"] = output["service"].failure
    return Installed(
        prefix=prefix,
        state=json_object(files.get("state.json", "")),
        current=_digest(section.value("current")),
        previous=_digest(section.value("previous")),
        environments=tuple(
            filter(None, (_digest(path.removesuffix("/.complete")) for path in section.values("environment")))
        ),
        tampered=changed,
        service=service,
        service_pid=pid,
        supervisor=supervisor,
        held_by=json_object(files.get("lock.json", "")),
        last_verify=json_object(files.get("verify/last.json", "")),
        last_ready=json_object(files.get("verify/ready.json", "")),
    )


def tampered(section: Section) -> tuple[tuple[str, ...], str | None]:
    """Files that are not as they were written, and why some could not be compared.

    Reads sha256sum's and busybox's spellings. A file that may not be read is unknown, not changed.
    """
    if section.absent:
        return (), None
    forbidden: set[str] = set()
    changed: dict[str, None] = {}
    for line in section.lines():
        if denied := re.fullmatch(r"sha256sum: (?:can't open )?'?(/.*?)'?: Permission denied", line):
            forbidden.add(denied[1])
        elif failed := re.fullmatch(r"(/.*): FAILED(?: open or read)?", line):
            changed[failed[1]] = None
    unread = f"no permission to read {', '.join(sorted(forbidden))}" if forbidden else None
    if not section.ok:
        unread = section.failure
    return tuple(path for path in changed if path not in forbidden), unread


def _files(section: Section, nonce: str) -> dict[str, str]:
    mark = re.escape(f"@@{nonce} file")
    return dict(re.findall(rf"^{mark} (\S+)\n(.*?)\n{mark}$", section.text, re.MULTILINE | re.DOTALL))


def _digest(path: str | None) -> str | None:
    return (path or "").rstrip("/").rpartition("/")[2] or None


def _service(section: Section) -> tuple[str | None, int | None, str | None]:
    """State, main process and who supervises it; nothing where no supervisor knows the service."""
    for block in re.split(r"^manager=", section.text, flags=re.MULTILINE)[1:]:
        manager, _, rest = block.partition("\n")
        values = dict(re.findall(r"^(\w+)=(.*)$", rest, re.MULTILINE))
        if values.get("LoadState") not in {None, "not-found"}:
            return values.get("ActiveState"), integer(values.get("MainPID")) or None, manager.strip()
    if section.value("supervisord_config") is None:
        return None, None, None
    supervised = integer(next(iter((section.value("supervised") or "").split()), None))
    return ("active" if supervised else "inactive"), supervised, "supervisor"
