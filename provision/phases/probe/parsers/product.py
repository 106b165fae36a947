"""Installation of this product on a host: state, environments, service, lock and drift."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from provision.core.models.facts import Drift, EngineProcess, Installed
from provision.phases.probe.parsers import drift
from provision.phases.probe.parsers.values import integer, json_object
from provision.phases.probe.sections import Output, Section, marked

_FIELDS = {
    "state.json": "state",
    "lock.json": "locked_by",
    "verify/last.json": "last_verify",
    "verify/ready.json": "last_ready",
    "quarantine.json": "quarantine",
}


def installed(output: Output, engines: Sequence[EngineProcess], unknown: dict[str, str]) -> Installed | None:
    """Return the installation; None only where the prefix is unknown.

    Args:
        engines: All vLLM processes of the host.
    """
    section = output["installed"]
    prefix = output["system"].value("prefix")
    if prefix is None:
        unknown["installed"] = output["system"].failure
        return None
    section.note_failure(unknown, "installed.state")
    for name in section.values("unreadable"):
        field_of = "model_files" if name.startswith("models/") else _FIELDS.get(name, "environments")
        unknown[f"installed.{field_of}"] = f"no permission to read {prefix}/{name}"
    if section.value("image_of_root"):
        unknown["installed.image"] = "no permission to read root's images of podman"
    files = _files(section, output.nonce)
    service = _service(output["service"], prefix)
    output["service"].note_failure(unknown, "installed.service")
    drifted, unread = drift.differences(output["drift"], output.nonce, service.unit)
    if output["drift"].absent and "state.json" in files:
        # One task writes both files, so somebody deleted the list.
        drifted = [Drift(kind="file", path=f"{prefix}/state.sha256", text="is gone")]
    if unread:
        unknown["installed.drift"] = unread
    return Installed(
        prefix=prefix,
        state=json_object(files.get("state.json", "")),
        current=_digest(section.value("current")),
        previous=_digest(section.value("previous")),
        release=_release(section.value("release")),
        previous_release=_release(section.value("previous_release")),
        releases=tuple(filter(None, map(_release, section.values("known_release")))),
        environments=tuple(filter(None, map(_digest, section.values("environment")))),
        models=tuple(filter(None, map(_digest, section.values("model")))),
        model_files={_digest(at) or at: (*(json_object(text) or ()),) for at, text in files.items() if "models/" in at},
        image=section.value("image"),
        drift=tuple(drifted + drift.processes(service.pid, "".join(service.main_stat[:1]), engines)),
        foreign=drift.foreign(output["drift"].values("foreign"), prefix),
        service=service.state,
        service_pid=service.pid,
        service_start_ticks=integer(service.main_stat[19]) if len(service.main_stat) > 19 else None,
        supervisor=service.supervisor,
        locked_by=json_object(files.get("lock.json", "")),
        lock_is_left=section.value("lock_left") is not None,
        last_verify=json_object(files.get("verify/last.json", "")),
        last_ready=json_object(files.get("verify/ready.json", "")),
        firewall=section.value("firewall") is not None,
        quarantine=(json_object(files["quarantine.json"]) or {}) if "quarantine.json" in files else None,
    )


@dataclass(frozen=True)
class _Service:
    """State of the service in its supervisor; all None where no supervisor knows it."""

    state: str | None = None
    pid: int | None = None
    supervisor: str | None = None
    main_stat: tuple[str, ...] = ()
    """Fields 3 and following of the main process's /proc/PID/stat."""
    unit: drift.Values = field(default_factory=dict)


def _files(section: Section, nonce: str) -> dict[str, str]:
    # A line without a name closes the file before it; one that is not closed was cut.
    marks = [(line.partition(" ")[2], text) for line, text in marked(section.text, nonce, "file")]
    return {name: text for (name, text), (following, _) in pairwise(marks) if name and not following}


def _digest(path: str | None) -> str | None:
    return (path or "").removesuffix("/.complete").rstrip("/").rpartition("/")[2] or None


def _release(path: str | None) -> str | None:
    """Return the digest in `releases/DIGEST/NAME`; None for any other path."""
    parts = (path or "").split("/")
    return parts[-2] if len(parts) >= 3 and parts[-3] == "releases" else None


def _service(section: Section, prefix: str) -> _Service:
    own = "/etc/service.env"
    for block in re.split(r"^manager=", section.text, flags=re.MULTILINE)[1:]:
        manager, _, rest = block.partition("\n")
        unit = drift.properties(rest.split("\n"))
        first = {name: next(iter(values), None) for name, values in unit.items()}
        # A unit of another installation has the same name: root's, beside one in a user's home.
        files = [each.partition(" ")[0] for each in unit.get("EnvironmentFiles", ())]
        is_ours = f"{prefix}{own}" in files or not any(file.endswith(own) for file in files)
        if is_ours and first.get("LoadState") not in {None, "not-found"}:
            return _Service(
                state=first.get("ActiveState"),
                pid=integer(first.get("MainPID")) or None,
                supervisor=manager.strip(),
                main_stat=tuple((first.get("MainStat") or "").split()),
                unit=unit,
            )
    if section.value("supervisord_config") is None:
        return _Service()
    supervised = integer(next(iter((section.value("supervised") or "").split()), None))
    # One that was stopped in order has no supervisord either.
    ended = "failed" if section.value("supervisord_pid") else "inactive"
    return _Service(
        state="active" if supervised else ended,
        pid=supervised,
        supervisor="supervisor",
        main_stat=tuple((section.value("MainStat") or "").split()),
    )
