"""vLLM's processes on the host, of any user. vLLM sets their titles to `VLLM::` and a role."""

from __future__ import annotations

import re

from provision.core.models.facts import EngineProcess
from provision.phases.probe.parsers.values import integer
from provision.phases.probe.sections import Section


def engine_processes(section: Section, unknown: dict[str, str]) -> tuple[EngineProcess, ...]:
    if not section.ok:
        unknown["engine_processes"] = section.failure
    status: dict[int, dict[str, str]] = {}
    for line in section.lines():
        match = re.fullmatch(r"/proc/([0-9]{1,10})/status:(Name|State|PPid|Uid):\s*(.*?)\s*", line)
        if match:
            status.setdefault(int(match[1]), {})[match[2]] = match[3]
    titles = {
        int(pid): title.strip()
        for pid, title in re.findall(r"^/proc/([0-9]{1,10})/cmdline:(.*)$", section.text, re.MULTILINE)
    }
    names = {int(uid): name for name, uid in re.findall(r"^([a-z_][^:\s]*):([0-9]{1,10})$", section.text, re.MULTILINE)}
    found = []
    for pid, fields in sorted(status.items()):
        uid = integer(next(iter(fields.get("Uid", "").split()), None))
        found.append(
            EngineProcess(
                pid=pid,
                parent=integer(fields.get("PPid")),
                uid=uid,
                user=names.get(uid) if uid is not None else None,
                name=titles.get(pid) or fields.get("Name"),
                state=fields.get("State", "")[:1] or None,
            )
        )
    return tuple(found)
